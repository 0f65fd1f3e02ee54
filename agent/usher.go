package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/agent/reexec"
)

// usherTimeout bounds what the usher does for a process: it only forks.
const usherTimeout = 10 * time.Second

// usher is the process that lets others into containers. It is started when it is first
// wanted, and again if it has ended.
type usher struct {
	forker *forker
	dir    string // where libcontainer can put what shields the agent's program
	// capabilities are those that it can give. They are listed when first asked for.
	capabilities func() (knownCapabilities, error)

	mu   sync.Mutex
	conn *net.UnixConn // nil while there is no usher
}

func newUsher(forker *forker, dir string) *usher {
	return &usher{forker: forker, dir: dir, capabilities: sync.OnceValues(listCapabilities)}
}

// admit has the usher make a process, which is the agent's child, and returns its pid.
func (u *usher) admit(entry, rights []byte) (pid int, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.conn == nil {
		if u.conn, err = u.start(); err != nil {
			return 0, fmt.Errorf("starting the usher: %w", err)
		}
	}
	answer := make([]byte, 8)
	n := 0
	err = u.conn.SetDeadline(time.Now().Add(usherTimeout))
	if err == nil {
		_, _, err = u.conn.WriteMsgUnix(entry, rights, nil)
	}
	if err == nil {
		n, err = u.conn.Read(answer)
	}
	if err != nil {
		u.conn.Close() // which ends it
		u.conn = nil
		return 0, fmt.Errorf("asking the usher for a process: %w", err)
	}
	return reexec.EntryPID(answer[:n])
}

func (u *usher) start() (*net.UnixConn, error) {
	// A container must not find the agent's own program in /proc.
	if err := os.MkdirAll(u.dir, 0o700); err != nil {
		return nil, err
	}
	exe, err := exeseal.CloneSelfExe(u.dir)
	if err != nil {
		return nil, fmt.Errorf("copying the agent's program: %w", err)
	}
	defer exe.Close()
	ours, theirs, err := seqpacketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command("", reexec.Usher)
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = []*os.File{theirs, exe}
	// Where the child has it: by then its number here may be another file's.
	cmd.Path = fmt.Sprintf("/proc/self/fd/%d", reexec.UsherSocket+1)
	if err := u.forker.do(cmd.Start); err != nil {
		ours.Close()
		return nil, err
	}
	go func() { _ = cmd.Wait() }() // it ends with our end of the socket, at the latest
	return ours, nil
}

// seqpacketPair makes two ends of a socket that keeps messages apart.
func seqpacketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a pair of sockets: %w", err)
	}
	f := os.NewFile(uintptr(fds[0]), "usher")
	defer f.Close() // conn is a copy
	theirs = os.NewFile(uintptr(fds[1]), "usher")
	conn, err := net.FileConn(f)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("making a pair of sockets: %w", err)
	}
	return conn.(*net.UnixConn), theirs, nil
}

// letIn has a process enter a container and execute what entry says. When it returns
// the program is being executed, or no process is left.
func (u *usher) letIn(ctx context.Context, entry *reexec.Entry, files reexec.EntryFiles) (*entered, error) {
	message, err := entry.Encode()
	if err != nil {
		return nil, err
	}
	status, theirs, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	defer status.Close()
	files.Status = int(theirs.Fd())
	pid, err := u.admit(message, files.Rights())
	theirs.Close()
	if err != nil {
		return nil, err
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil, fmt.Errorf("finding process %d: %w", pid, err)
	}
	if err := awaitExec(ctx, status); err != nil {
		_ = p.Kill()
		_, _ = p.Wait()
		return nil, err
	}
	return &entered{p}, nil
}

// awaitExec waits until the pipe is closed, as it is when a program is executed.
func awaitExec(ctx context.Context, status *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = status.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	failure := make([]byte, 64)
	n, err := status.Read(failure)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("waiting for a process to enter the container: %w", ctx.Err())
	}
	return reexec.EntryFailure(failure[:n])
}

// entered is a process that the usher has let in.
type entered struct{ *os.Process }

// Pid returns the process's id in the guest.
func (e *entered) Pid() (int, error) { return e.Process.Pid, nil }
