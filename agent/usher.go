package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/agent/reexec"
)

// usherTimeout bounds what the usher does for a process: it only forks. A guest that was
// not executed for some time is no reason to give it up.
const usherTimeout = time.Minute

// usher is the process that makes others in containers. It is started ahead in a guest that
// is to be saved, else when it is first wanted, and again if it has ended.
type usher struct {
	forker *forker
	dir    string // where libcontainer can put what shields the agent's program
	// capabilities are those that it can give. They are listed when first asked for.
	capabilities func() (knownCapabilities, error)

	// turn has room for the one who asks it; process is of whose turn it is, and nil
	// while there is none.
	turn    chan struct{}
	process *usherProcess
}

// usherProcess is an usher that was started.
type usherProcess struct {
	conn *net.UnixConn
	cmd  *exec.Cmd
	gone chan struct{} // closed when it has ended
}

func newUsher(forker *forker, dir string) *usher {
	return &usher{
		forker: forker, dir: dir, turn: make(chan struct{}, 1),
		capabilities: sync.OnceValues(listCapabilities),
	}
}

// ready starts the usher, if there is none.
func (u *usher) ready(ctx context.Context) error {
	_, err := u.takeTurn(ctx)
	if err == nil {
		<-u.turn
	}
	return err
}

// takeTurn waits until nobody else asks the usher, which there is then. If there is no
// error, what was taken is to be given back by receiving from turn.
func (u *usher) takeTurn(ctx context.Context) (_ *usherProcess, err error) {
	select {
	case u.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the usher: %w", ctx.Err())
	}
	if u.process == nil {
		if u.process, err = u.start(); err != nil {
			<-u.turn
			return nil, fmt.Errorf("starting the usher: %w", err)
		}
	}
	return u.process, nil
}

// admit has the usher make a process, which is the agent's child, and returns its pid.
// When it fails none is left.
func (u *usher) admit(ctx context.Context, entry, rights []byte) (pid int, err error) {
	process, err := u.takeTurn(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { <-u.turn }()
	answer, err := process.ask(entry, rights)
	if err != nil {
		process.end()
		u.process = nil
		return 0, fmt.Errorf("asking the usher for a process: %w", err)
	}
	return reexec.EntryPID(answer)
}

func (p *usherProcess) ask(entry, rights []byte) (answer []byte, err error) {
	if err := p.conn.SetDeadline(time.Now().Add(usherTimeout)); err != nil {
		return nil, err
	}
	if _, _, err := p.conn.WriteMsgUnix(entry, rights, nil); err != nil {
		return nil, err
	}
	return p.answer()
}

func (p *usherProcess) answer() ([]byte, error) {
	answer := make([]byte, 8)
	n, err := p.conn.Read(answer)
	return answer[:n], err
}

// end ends it, and the process that it may have made without our knowing: that waits for
// a word before it executes anything, and then for somebody to hear of its end.
func (p *usherProcess) end() {
	_ = p.cmd.Process.Kill()
	<-p.gone
	defer p.conn.Close()
	if p.conn.SetDeadline(time.Now().Add(time.Second)) != nil {
		return
	}
	answer, err := p.answer()
	if err != nil {
		return
	}
	if pid, err := reexec.EntryPID(answer); err == nil {
		killAndWait(pid)
	}
}

func killAndWait(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill()
		_, _ = p.Wait()
	}
}

func (u *usher) start() (*usherProcess, error) {
	// A container must not find the agent's own program in /proc.
	if err := makePrivateDir(u.dir); err != nil {
		return nil, err
	}
	exe, err := exeseal.CloneSelfExe(u.dir)
	if err != nil {
		return nil, fmt.Errorf("copying the agent's program: %w", err)
	}
	defer exe.Close()
	ours, theirs, err := socketPair(unix.SOCK_SEQPACKET)
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
	p := &usherProcess{conn: ours, cmd: cmd, gone: make(chan struct{})}
	go func() {
		defer close(p.gone)
		_ = cmd.Wait() // it ends with our end of the socket, at the latest
	}()
	return p, nil
}

// makePrivateDir makes a directory for the guest's root only. What it is in is for
// all: the root of a user namespace must find its root file system.
func makePrivateDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o700)
}

// socketPair makes two ends of a socket of a type.
func socketPair(kind int) (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
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
	p, status, err := u.make(ctx, message, files)
	if err != nil {
		return nil, err
	}
	defer status.Close()
	if err := goAhead(ctx, status); err != nil {
		p.abort()
		return nil, err
	}
	return p, nil
}

// build has a container made. When it returns the init waits at the other end of status
// to execute its program, or no process is left.
func (u *usher) build(ctx context.Context, b *reexec.Build, files reexec.EntryFiles) (_ *entered, status *net.UnixConn, err error) {
	message, err := b.Encode()
	if err != nil {
		return nil, nil, err
	}
	p, status, err := u.make(ctx, message, files)
	if err != nil {
		return nil, nil, err
	}
	if err := awaitInit(ctx, status); err != nil {
		status.Close()
		p.abort()
		return nil, nil, err
	}
	return p, status, nil
}

// make has the usher make a process, and returns the agent's end of its stream.
func (u *usher) make(ctx context.Context, message []byte, files reexec.EntryFiles) (*entered, *net.UnixConn, error) {
	status, theirs, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		return nil, nil, err
	}
	files.Status = int(theirs.Fd())
	pid, err := u.admit(ctx, message, files.Rights())
	theirs.Close()
	if err != nil {
		status.Close()
		return nil, nil, err
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		status.Close()
		return nil, nil, fmt.Errorf("finding process %d: %w", pid, err)
	}
	return &entered{p}, status, nil
}

// goAhead lets a process execute its program, and waits until it does or is gone: then
// the stream is closed.
func goAhead(ctx context.Context, status *net.UnixConn) error {
	_, _ = status.Write([]byte{1}) // one that is gone has said why
	told, err := readStatus(ctx, status)
	if err != nil {
		return err
	}
	return reexec.EntryFailure(told)
}

// awaitInit waits until a container's init waits itself.
func awaitInit(ctx context.Context, status *net.UnixConn) error {
	told, err := readStatus(ctx, status)
	switch {
	case err != nil:
		return err
	case len(told) == 1 && told[0] == reexec.UsherWaits:
		return nil
	case len(told) == 0:
		return errors.New("the container's init has ended")
	}
	return reexec.EntryFailure(told)
}

// readStatus reads what a process tells next, nothing if that is that it is gone.
func readStatus(ctx context.Context, status *net.UnixConn) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = status.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	told := make([]byte, 64)
	n, err := status.Read(told)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, fmt.Errorf("waiting for a process of the usher's: %w", ctx.Err())
	}
	return told[:n], nil
}

// entered is a process that the usher has made.
type entered struct{ *os.Process }

// Pid returns the process's id in the guest.
func (e *entered) Pid() (int, error) { return e.Process.Pid, nil }

// abort ends a process that nobody waits for yet, and waits some seconds for its end. One
// that is in a call which nothing interrupts, as to a share whose daemon hangs, ends later.
func (e *entered) abort() {
	_ = e.Kill()
	ended := make(chan struct{})
	go func() { // until it is reaped
		defer close(ended)
		_, _ = e.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(killTime):
	}
}
