package agent

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// pidfd is a process as a file that can be waited for without a thread.
type pidfd struct{ f *os.File }

// openPidfd opens a child that has not been waited for.
func openPidfd(pid int) (*pidfd, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open of process %d: %w", pid, err)
	}
	return &pidfd{os.NewFile(uintptr(fd), "pidfd")}, nil
}

// await returns when the process has ended. It stays to be waited for.
func (p *pidfd) await() error {
	raw, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	var werr error
	rerr := raw.Read(func(fd uintptr) bool {
		var info unix.Siginfo
		werr = unix.Waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOWAIT, nil)
		// A child that still runs is EAGAIN here, for PIDFD_NONBLOCK.
		return werr != unix.EAGAIN && werr != unix.EINTR
	})
	if err := firstError(rerr, werr); err != nil {
		return fmt.Errorf("waiting for a process: %w", err)
	}
	return nil
}

// dup is a copy of the descriptor, which is the caller's to close.
func (p *pidfd) dup() (fd int, err error) {
	raw, err := p.f.SyscallConn()
	if err != nil {
		return -1, err
	}
	var derr error
	cerr := raw.Control(func(from uintptr) { fd, derr = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) })
	if err := firstError(cerr, derr); err != nil {
		return -1, fmt.Errorf("copying the descriptor of a process: %w", err)
	}
	return fd, nil
}

func (p *pidfd) close() { p.f.Close() }

// exitStatus is the status of a process that ended: its code, or 128 + n if
// signal n killed it. It is 255 where the state is not known.
func exitStatus(state *os.ProcessState) uint32 {
	if state == nil {
		return 255
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return 255
	case status.Signaled():
		return 128 + uint32(status.Signal())
	}
	return uint32(status.ExitStatus())
}
