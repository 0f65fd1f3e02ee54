package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// host is a Sandbox whose guest is this machine: its processes are real ones,
// in process groups of their own, and so are their streams.
type host struct {
	args  map[string][]string // of inits, by container id
	ooms  chan string
	block chan struct{} // not nil: CreateContainer waits for it
	holds bool          // exits are not told before all output is read
	// answers, if not nil, holds back the answers to signals until it is closed.
	answers chan struct{}
	empty   bool // no processes are listed

	mu      sync.Mutex
	all     []*hostProcess
	stopped bool
}

func newHost(args map[string][]string) *host {
	return &host{args: args, ooms: make(chan string, 1)}
}

func (h *host) PID() int            { return os.Getpid() }
func (h *host) OOMs() <-chan string { return h.ooms }

func (h *host) CreateContainer(ctx context.Context, o ContainerOptions) (Container, error) {
	if h.block != nil {
		select {
		case <-h.block:
		case <-ctx.Done():
			return nil, fmt.Errorf("boot: %w", ctx.Err())
		}
	}
	args, ok := h.args[o.ID]
	if !ok {
		return nil, fmt.Errorf("no such bundle: %w", errdefs.ErrNotFound)
	}
	c := &hostContainer{host: h, execs: make(map[string]*hostProcess)}
	init, err := h.process(args, o.Streams)
	if err != nil {
		return nil, err
	}
	c.init = init
	init.after = c.end
	return c, nil
}

// Stop kills the machine: every process counts as killed at once.
func (h *host) Stop(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
	for _, p := range h.all {
		p.vanish()
	}
	return nil
}

type hostContainer struct {
	host  *host
	init  *hostProcess
	mu    sync.Mutex
	execs map[string]*hostProcess
}

func (c *hostContainer) Init() Process { return c.init }

func (c *hostContainer) Exec(_ context.Context, id string, spec *specs.Process, s Streams) (Process, error) {
	p, err := c.host.process(spec.Args, s)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.execs[id] = p
	return p, nil
}

// end kills the execs, as a PID namespace does.
func (c *hostContainer) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.execs {
		_ = p.Signal(context.Background(), uint32(unix.SIGKILL))
	}
}

func (c *hostContainer) Pause(ctx context.Context) error {
	return c.init.freeze(unix.SIGSTOP, Paused)
}

func (c *hostContainer) Resume(ctx context.Context) error {
	return c.init.freeze(unix.SIGCONT, Running)
}

func (c *hostContainer) Update(_ context.Context, r *specs.LinuxResources) error {
	if r.CPU == nil {
		return errdefs.ErrInvalidArgument
	}
	return nil
}

func (c *hostContainer) Stats(context.Context) (*stats.Metrics, error) {
	return &stats.Metrics{Pids: &stats.PidsStat{Current: 7}}, nil
}

func (c *hostContainer) Pids(context.Context) ([]ProcessInfo, error) {
	if c.host.empty {
		return nil, nil
	}
	ps := []ProcessInfo{{PID: 1}}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.execs {
		ps = append(ps, ProcessInfo{PID: 2, ExecID: id})
	}
	return ps, nil
}

func (c *hostContainer) Signal(ctx context.Context, signal uint32) error {
	return c.init.Signal(ctx, signal)
}

// hostProcess is a process of this machine.
type hostProcess struct {
	cmd            *exec.Cmd
	stdin          *os.File
	stdout, stderr *output
	childs         []*os.File
	done           chan struct{}
	after          func()
	holds          bool
	answers        chan struct{}

	mu    sync.Mutex
	state State
	exit  Exit
}

func (h *host) process(args []string, s Streams) (*hostProcess, error) {
	p := &hostProcess{cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{}), holds: h.holds, answers: h.answers}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if s.Stdin {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.cmd.Stdin, p.stdin = r, w
		p.childs = append(p.childs, r)
	}
	for _, o := range []struct {
		wanted bool
		ours   **output
		its    *io.Writer
	}{{s.Stdout, &p.stdout, &p.cmd.Stdout}, {s.Stderr, &p.stderr, &p.cmd.Stderr}} {
		if !o.wanted {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		*o.ours, *o.its = &output{File: r, more: make(chan struct{}, 1)}, w
		p.childs = append(p.childs, w)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, p)
	return p, nil
}

func (p *hostProcess) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

func (p *hostProcess) Start(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != Created {
		return errdefs.ErrFailedPrecondition
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.closeChilds()
	p.state = Running
	go p.watch()
	return nil
}

func (p *hostProcess) watch() {
	_ = p.cmd.Wait()
	ws := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	e := Exit{Status: uint32(ws.ExitStatus()), At: time.Now()}
	if ws.Signaled() {
		e.Status = 128 + uint32(ws.Signal())
	}
	e.StdoutBytes, e.StderrBytes = p.stdout.total(), p.stderr.total()
	if p.after != nil {
		p.after()
	}
	if p.holds {
		p.stdout.await(e.StdoutBytes)
		p.stderr.await(e.StderrBytes)
	}
	p.end(e)
}

// end makes e the process's exit unless it has one.
func (p *hostProcess) end(e Exit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == Stopped {
		return
	}
	p.state, p.exit = Stopped, e
	close(p.done)
}

// vanish is what happens to a process when its machine dies.
func (p *hostProcess) vanish() {
	_ = p.signal(uint32(unix.SIGKILL))
	p.end(Exit{Status: killed, At: time.Now()})
	p.release()
}

func (p *hostProcess) closeChilds() {
	for _, f := range p.childs {
		_ = f.Close()
	}
	p.childs = nil
}

func (p *hostProcess) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeChilds()
	if p.stdin != nil {
		_ = p.stdin.Close()
	}
	for _, o := range []*output{p.stdout, p.stderr} {
		if o != nil {
			_ = o.Close()
		}
	}
}

func (p *hostProcess) freeze(sig syscall.Signal, s State) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == Stopped || p.state == Created {
		return errdefs.ErrFailedPrecondition
	}
	p.state = s
	return syscall.Kill(-p.cmd.Process.Pid, sig)
}

func (p *hostProcess) Signal(_ context.Context, signal uint32) error {
	err := p.signal(signal)
	if p.answers != nil {
		<-p.answers
	}
	return err
}

func (p *hostProcess) signal(signal uint32) error {
	switch p.State() {
	case Stopped:
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	case Created:
		p.end(Exit{Status: 128 + signal, At: time.Now()})
		return nil
	}
	err := syscall.Kill(-p.cmd.Process.Pid, syscall.Signal(signal))
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	return err
}

func (p *hostProcess) Resize(context.Context, uint32, uint32) error { return nil }

func (p *hostProcess) Stdin() io.WriteCloser {
	if p.stdin == nil {
		return nil
	}
	return p.stdin
}

func (p *hostProcess) Stdout() io.Reader { return p.stdout.reader() }
func (p *hostProcess) Stderr() io.Reader { return p.stderr.reader() }

func (p *hostProcess) Done() <-chan struct{} { return p.done }

func (p *hostProcess) Exit() Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

func (p *hostProcess) Delete(ctx context.Context) error {
	if st := p.State(); st == Running || st == Paused {
		return fmt.Errorf("it runs: %w", errdefs.ErrFailedPrecondition)
	}
	if p.State() == Created {
		p.end(Exit{Status: killed, At: time.Now()})
	}
	p.release()
	return nil
}

// output is a pipe that knows how much has been written to it.
type output struct {
	*os.File
	mu   sync.Mutex
	read uint64
	more chan struct{} // has a token when read has grown
}

func (o *output) reader() io.Reader {
	if o == nil {
		return nil
	}
	return o
}

func (o *output) Read(b []byte) (n int, err error) {
	raw, err := o.SyscallConn()
	if err != nil {
		return 0, err
	}
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		n, rerr = unix.Read(int(fd), b)
		o.read += uint64(max(n, 0))
		select {
		case o.more <- struct{}{}:
		default:
		}
		return rerr != unix.EAGAIN
	})
	if err := errors.Join(err, rerr); err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// await waits until n bytes have been read.
func (o *output) await(n uint64) {
	for o != nil {
		o.mu.Lock()
		read := o.read
		o.mu.Unlock()
		if read >= n {
			return
		}
		<-o.more
	}
}

// total is what has been read and what is still in the pipe.
func (o *output) total() (n uint64) {
	if o == nil {
		return 0
	}
	raw, err := o.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		o.mu.Lock()
		defer o.mu.Unlock()
		pending, _ := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		n = o.read + uint64(max(pending, 0))
	})
	return n
}

// waitUntil fails the test unless ch is closed, or gets something, in time.
func waitUntil[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain: %s", what)
	}
	panic("unreachable")
}
