package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/process/thread"
)

const (
	// logLimit bounds what is kept of a process's output, in bytes.
	logLimit = 2 << 10
	// drainTimeout bounds the wait for the end of the output of a process that
	// is gone: a stranger could hold its pipe open.
	drainTimeout = 100 * time.Millisecond
)

// User is an unprivileged identity.
type User struct {
	UID, GID uint32
	// Groups are the supplementary groups.
	Groups []uint32
}

// Spec says what to run.
type Spec struct {
	// Path is the program's file.
	Path string
	// Args are the arguments, without the program's own name.
	Args []string
	// Env is the whole environment.
	Env []string
	// Files become the descriptors 3 and on, in this order. They stay the
	// caller's, to be closed once Start has returned.
	Files []*os.File
	// User confines the process to an identity without any privilege; nil lets
	// it run as this process does.
	User *User
	// Namespaces are the CLONE_NEW... flags of the namespaces to make for it.
	Namespaces uintptr
	// NetNS is an open network namespace for it to run in, or nil. It stays the
	// caller's, as Files do.
	NetNS *os.File
	// Root is what the process finds of the host's files; nil lets it see them all.
	Root *Root
	// SmallPages keeps the kernel from giving the process huge pages, and from then on
	// this process and all that it starts, too: it is inherited, and not undone.
	SmallPages bool
	// Slice is how long each thread of the process may compute at a time while others
	// wait for the processor, until UsualSlice is called; 0 is as long as is usual, and so
	// is any for one that is nice to others.
	Slice time.Duration
}

// FD returns the descriptor that Files[i] has in the process.
func FD(i int) int { return 3 + i }

// Process is a process that was started. All methods may be called at any time
// and from any goroutine.
type Process struct {
	name string
	proc *os.Process
	log  *Tail
	// passing are the places of its root that are for its start only.
	passing []string
	asked   atomic.Bool
	done    chan struct{}
	err     error // written before done is closed, read after
}

// ExitError says how a process ended that nobody asked to end.
type ExitError struct {
	// Name is the program's file name.
	Name string
	// How is the exit status or the signal, in words.
	How string
	// Clean says that the process exited by itself with status 0.
	Clean bool
	// Log is the end of what it printed.
	Log string
}

// Error names the program, how it ended and what it said.
func (e *ExitError) Error() string {
	if e.Log == "" {
		return fmt.Sprintf("%s ended (%s) and said nothing", e.Name, e.How)
	}
	return fmt.Sprintf("%s ended (%s), saying: %s", e.Name, e.How, e.Log)
}

// Start runs a process and returns once its program has been executed.
//
// Errors: ErrNotFound if there is no such program, ErrPermissionDenied if it may
// not be executed by the user, else ErrFailedPrecondition.
func Start(spec Spec) (*Process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Path, err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: make a pipe for its output: %w", spec.Path, err)
	}
	defer w.Close()

	p := &Process{name: filepath.Base(spec.Path), log: NewTail(logLimit), done: make(chan struct{})}
	started := make(chan error)
	thread.Go(func() { p.run(spec, append([]*os.File{null, w, w}, spec.Files...), r, started) })
	if err := <-started; err != nil {
		return nil, startError(spec, err)
	}
	return p, nil
}

// run forks the process and waits for it, on one thread that does nothing else:
// the process dies when this thread does, which may be confined or elsewhere.
func (p *Process) run(spec Spec, files []*os.File, output *os.File, started chan<- error) {
	proc, err := p.fork(spec, files)
	if err != nil {
		output.Close()
		started <- err
		return
	}
	p.proc = proc
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(p.log, output)
	}()
	started <- nil

	state, err := proc.Wait()
	p.drain(output, drained)
	p.err = p.outcome(state, err)
	close(p.done)
}

// fork starts the process from the calling thread, which it moves and confines first
// if the process is to be.
func (p *Process) fork(spec Spec, files []*os.File) (_ *os.Process, err error) {
	// Go marks what it opens itself; this is for what this process was given.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("keep descriptors from being inherited: %w", err)
	}
	if spec.NetNS != nil {
		if err := unix.Setns(int(spec.NetNS.Fd()), unix.CLONE_NEWNET); err != nil {
			return nil, fmt.Errorf("enter network namespace %s: %w", spec.NetNS.Name(), err)
		}
	}
	if spec.Root != nil {
		home, err := mountNamespace()
		if err != nil {
			return nil, err
		}
		defer home.leave()
		if p.passing, err = spec.Root.enter(); err != nil {
			return nil, err
		}
	}
	if spec.SmallPages {
		// A kernel that does not know this gives no huge pages.
		_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)
	}
	if spec.Slice > 0 {
		if err := setSlice(0, spec.Slice); err != nil {
			return nil, fmt.Errorf("set for how long it may compute at a time: %w", err)
		}
	}
	if spec.User != nil {
		if err := confine(); err != nil {
			return nil, err
		}
	}
	return os.StartProcess(spec.Path, append([]string{spec.Path}, spec.Args...), &os.ProcAttr{
		Dir:   "/",
		Env:   append([]string{}, spec.Env...),
		Files: files,
		Sys:   attributes(spec),
	})
}

// drain waits until the process's output has been read to its end.
func (p *Process) drain(output *os.File, drained <-chan struct{}) {
	timeout := time.NewTimer(drainTimeout)
	defer timeout.Stop()
	select {
	case <-drained:
	case <-timeout.C:
	}
	output.Close()
	<-drained
}

func (p *Process) outcome(state *os.ProcessState, err error) error {
	switch {
	case p.asked.Load():
		return nil
	case err != nil:
		return fmt.Errorf("wait for %s: %w", p.name, err)
	default:
		return &ExitError{Name: p.name, How: state.String(), Clean: state.Success(), Log: p.log.String()}
	}
}

func attributes(spec Spec) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Setsid:     true,
		Pdeathsig:  syscall.SIGKILL,
		Cloneflags: spec.Namespaces,
	}
	if u := spec.User; u != nil {
		attr.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	return attr
}

func startError(spec Spec, err error) error {
	var kind error = errdefs.ErrFailedPrecondition
	switch {
	case errors.Is(err, os.ErrNotExist):
		kind = errdefs.ErrNotFound
	case errors.Is(err, os.ErrPermission):
		kind = errdefs.ErrPermissionDenied
	}
	return fmt.Errorf("start %s: %w: %w", spec.Path, err, kind)
}

// PID is the process's id, which stays its own until Done is closed.
func (p *Process) PID() int { return p.proc.Pid }

// Done is closed once the process is gone and what it printed has been read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the process ended: an *ExitError, or nil if Kill was called
// before that or Done is not closed yet.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Log returns the end of what the process printed, as printable text of at most
// 2 KiB.
func (p *Process) Log() string { return p.log.String() }

// Kill ends the process with SIGKILL and returns when it is gone. It may be
// called again, also when the process has gone by itself. Its only error is that
// ctx ended first.
func (p *Process) Kill(ctx context.Context) error {
	p.asked.Store(true)
	if err := p.proc.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s (pid %d): %w", p.name, p.proc.Pid, err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of %s (pid %d): %w", p.name, p.proc.Pid, ctx.Err())
	}
}
