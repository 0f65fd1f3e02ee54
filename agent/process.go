package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

type processState int

const (
	stateCreated processState = iota
	stateRunning
	stateStopped
)

func (s processState) String() string {
	return [...]string{"created", "running", "stopped"}[s]
}

// process is one process of a container: its init, or an exec. doc.go draws its
// states.
type process struct {
	execID    string // "" for the init
	container *container
	lp        *libcontainer.Process
	io        *stdio
	run       runner // lp, but for an exec that the usher let in

	mu      sync.Mutex
	state   processState
	pid     int    // 0 before it runs; an init has one once it is created
	pidfd   *pidfd // closed when it has ended
	ooms    uint64 // the cgroup's OOM kills before the process began
	exit    exit
	stopped chan struct{} // closed when it has exited and exit is set
}

// exit is how a process ended.
type exit struct {
	status    uint32
	at        time.Time
	oomKilled bool
}

// runner is a process that was started: libcontainer's, or one that the usher let in.
type runner interface {
	Pid() (int, error)
	Signal(os.Signal) error
	Wait() (*os.ProcessState, error)
}

func newProcess(c *container, execID string, lp *libcontainer.Process, io *stdio) *process {
	return &process{execID: execID, container: c, lp: lp, io: io, run: lp, stopped: make(chan struct{})}
}

// name names the process for a person.
func (p *process) name() string {
	if p.execID == "" {
		return "container " + p.container.id
	}
	return fmt.Sprintf("exec %s in container %s", p.execID, p.container.id)
}

func (p *process) current() (state processState, pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state, p.pid
}

// want is an error unless the process is in the state.
func (p *process) want(state processState, verb string) error {
	if now, _ := p.current(); now != state {
		return fmt.Errorf("cannot %s %s: it is %s: %w", verb, p.name(), now, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// began follows the process, which libcontainer has started, to its end.
func (p *process) began() error {
	pid, err := p.run.Pid()
	if err != nil {
		return fmt.Errorf("%s has no process: %w", p.name(), err)
	}
	fd, err := openPidfd(pid)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.pid, p.pidfd = pid, fd
	p.mu.Unlock()
	go p.watch(fd)
	return nil
}

// dupPidfd is the process as a descriptor of the caller's own, and an error if it has ended.
func (p *process) dupPidfd() (fd int, err error) {
	p.mu.Lock()
	from := p.pidfd
	p.mu.Unlock()
	if from == nil {
		return -1, fmt.Errorf("%s has not begun: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	return from.dup()
}

// running marks the process as running, unless it has stopped already.
func (p *process) running() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == stateCreated {
		p.state = stateRunning
	}
}

// watch waits for the end of the process and records it.
func (p *process) watch(fd *pidfd) {
	defer fd.close()
	if err := fd.await(); err != nil {
		p.container.log.infof("%s: %v", p.name(), err)
	}
	at := time.Now()
	// Its error repeats what the state says.
	state, _ := p.run.Wait()
	p.stop(exit{
		status:    exitStatus(state),
		at:        at,
		oomKilled: p.container.cgroup.oomKills() > p.ooms,
	})
}

// stop records the end of the process.
func (p *process) stop(e exit) {
	p.mu.Lock()
	p.state, p.exit = stateStopped, e
	p.mu.Unlock()
	close(p.stopped)
	p.io.exited()
	p.container.log.debugf("%s exited with %d", p.name(), e.status)
}

// wait waits until the process has exited and what it wrote has been sent, and
// returns the bytes of it for stdout and stderr.
func (p *process) wait(ctx context.Context) (e exit, sent [2]uint64, err error) {
	select {
	case <-p.stopped:
	case <-ctx.Done():
		return e, sent, fmt.Errorf("waiting for %s: %w", p.name(), ctx.Err())
	}
	sent, err = p.io.wait(ctx)
	if err != nil {
		return e, sent, fmt.Errorf("waiting for the output of %s to be read: %w", p.name(), err)
	}
	return p.exit, sent, nil
}

// signal sends a signal to the process.
func (p *process) signal(sig unix.Signal) error {
	state, pid := p.current()
	if pid == 0 && state == stateCreated {
		return fmt.Errorf("cannot signal %s: it is not started: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	err := os.ErrProcessDone
	if state != stateStopped {
		err = p.run.Signal(sig)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrProcessDone):
		return fmt.Errorf("%s: process already finished: %w", p.name(), errdefs.ErrNotFound)
	}
	return fmt.Errorf("sending signal %d to %s: %w", sig, p.name(), err)
}

// resize sets the size of the process's terminal, in characters.
func (p *process) resize(width, height uint32) error {
	if width > maxTerminalSize || height > maxTerminalSize {
		return fmt.Errorf("terminal of %d by %d: at most %d: %w", width, height, maxTerminalSize, errdefs.ErrInvalidArgument)
	}
	state, pid := p.current()
	if pid == 0 || state == stateStopped {
		return fmt.Errorf("cannot resize the terminal of %s: it is %s: %w", p.name(), state, errdefs.ErrFailedPrecondition)
	}
	return p.io.resize(uint16(width), uint16(height))
}
