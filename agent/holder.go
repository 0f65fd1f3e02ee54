package agent

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/hyperhq/hyper/agent/reexec"
)

// holder holds the PID namespace of a pod whose containers share one, where none
// of them is there before all others and ends after them: its first process is
// the agent's program, which reaps there and does nothing else.
type holder struct {
	forker *forker

	mu  sync.Mutex
	cmd *exec.Cmd // nil before the first use
}

// open opens the namespace, which the first call makes.
func (h *holder) open() (*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cmd == nil {
		cmd := exec.Command("/proc/self/exe", reexec.Hold)
		cmd.Env = []string{}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		if err := h.forker.do(cmd.Start); err != nil {
			return nil, fmt.Errorf("making the pod's PID namespace: %w", err)
		}
		h.cmd = cmd
		go h.wait(cmd)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", h.cmd.Process.Pid))
	if err != nil {
		return nil, fmt.Errorf("opening the pod's PID namespace: %w", err)
	}
	return f, nil
}

// wait waits for the end of the namespace's first process, which the guest's kernel
// alone could bring about: who wants the namespace then gets a new one.
func (h *holder) wait(cmd *exec.Cmd) {
	_ = cmd.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cmd == cmd {
		h.cmd = nil
	}
}
