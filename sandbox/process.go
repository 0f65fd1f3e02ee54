package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// deathTimeout is how long a container that was killed may take to end: what it wrote may
// have a slow reader, and a disk of the host be busy.
const deathTimeout = 5 * time.Minute

// State is where in its life a process is.
type State int

// The states of a process; see the package's comment for how they follow.
const (
	Created State = iota
	Running
	Paused
	Stopped
)

func (s State) String() string {
	return [...]string{"created", "running", "paused", "stopped"}[s]
}

// Exit is how a process ended.
type Exit struct {
	// Status is the exit code, or 128 + n after signal n.
	Status uint32
	// At is when it ended, by the guest's clock if that can be believed.
	At time.Time
	// StdoutBytes and StderrBytes are what the process itself wrote.
	StdoutBytes, StderrBytes uint64
	// OOMKilled tells that the guest's kernel ended it for want of memory.
	OOMKilled bool
	// Unchanged tells, of a container's init, that nothing was written to a root
	// filesystem on disks.
	Unchanged bool
}

// killed is the exit of a process whose machine is gone.
func killed() Exit { return Exit{Status: 128 + uint32(unix.SIGKILL), At: time.Now()} }

// Process is a container's init or an exec.
type Process struct {
	id        string // "" for the init
	container *Container
	streams   streams
	done      chan struct{}
	killed    sync.Once // the first that has reached a container

	mu    sync.Mutex
	state State // never Paused: that is the container's
	exit  Exit
}

func (c *Container) newProcess(ctx context.Context, id string, stdio Stdio) (*Process, error) {
	streams, err := c.guest.openStreams(ctx, stdio)
	if err != nil {
		return nil, err
	}
	return &Process{id: id, container: c, streams: streams, done: make(chan struct{})}, nil
}

func (p *Process) ref() *agentv1.ProcessRef {
	return &agentv1.ProcessRef{ContainerId: p.container.id, ExecId: p.id}
}

func (p *Process) String() string {
	if p.id == "" {
		return "container " + p.container.id
	}
	return fmt.Sprintf("exec %s of container %s", p.id, p.container.id)
}

// ID is the exec's id, "" for a container's init.
func (p *Process) ID() string { return p.id }

// State is the process's state now.
func (p *Process) State() State {
	p.mu.Lock()
	state := p.state
	p.mu.Unlock()
	if state == Running && p.container.isPaused() {
		return Paused
	}
	return state
}

func (p *Process) mustBe(allowed ...State) error {
	if state := p.State(); !slices.Contains(allowed, state) {
		return fmt.Errorf("%s is %s, not %s: %w", p, state, allowed[0], errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Start runs the process. errdefs.ErrFailedPrecondition if it was started
// before. A program that is not there is the container runtime's usual error.
func (p *Process) Start(ctx context.Context) error {
	if err := p.mustBe(Created); err != nil {
		return err
	}
	agent, err := p.container.guest.call()
	if err != nil {
		return err
	}
	if p.id == "" {
		// What was attached to the sandbox since is there before the program is.
		if err := p.container.guest.network.sync(ctx); err != nil {
			return err
		}
	}
	if err := agent.start(ctx, p.ref()); err != nil {
		return fmt.Errorf("starting %s: %w", p, err)
	}
	p.container.guest.hasStarted()
	p.mu.Lock()
	if p.state == Created {
		p.state = Running
	}
	p.mu.Unlock()
	if p.id != "" {
		p.container.sandbox.tasks.Go(p.watch)
		return nil
	}
	return p.container.runStartedHooks(ctx)
}

// Signal sends the process a signal. errdefs.ErrNotFound once it has ended. SIGKILL ends a
// container also where the guest does not answer, or does not heed it: with its machine.
func (p *Process) Signal(ctx context.Context, sig uint32) error { return p.signal(ctx, sig, false) }

func (p *Process) signal(ctx context.Context, sig uint32, all bool) error {
	err := p.trySignal(ctx, sig, all)
	if errdefs.IsUnavailable(err) && p.endsWithGuest(ctx) {
		return p.finished()
	}
	return err
}

func (p *Process) finished() error {
	return fmt.Errorf("%s: process already finished: %w", p, errdefs.ErrNotFound)
}

// endsWithGuest waits until the process has ended with the guest, if that is about to end:
// who kills a process of it is then to hear that there is none, and not of the guest.
func (p *Process) endsWithGuest(ctx context.Context) bool {
	g := p.container.guest
	select {
	case <-g.lost:
	case <-g.machine.Done():
	default:
		return false
	}
	select {
	case <-p.done:
	case <-g.gone: // with an exec that was never started
	case <-ctx.Done():
	}
	return p.State() == Stopped
}

func (p *Process) trySignal(ctx context.Context, sig uint32, all bool) error {
	if p.State() == Stopped {
		return p.finished()
	}
	agent, err := p.container.guest.call()
	if err != nil {
		return err
	}
	err = agent.signal(ctx, &agentv1.SignalProcessRequest{
		ContainerId: p.container.id,
		ExecId:      p.id,
		Signal:      sig,
		All:         all,
	})
	if p.id == "" && sig == uint32(unix.SIGKILL) && p.awaitKill(ctx, err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signalling %s: %w", p, err)
	}
	return nil
}

// awaitKill sees to the end of a container that was sent SIGKILL with the given result. It
// reports whether it has ended the machine instead, which did not answer.
func (p *Process) awaitKill(ctx context.Context, result error) bool {
	silent := errors.Is(result, errNoAnswer)
	if result != nil && !silent && ctx.Err() == nil {
		return false // the guest has refused
	}
	p.killed.Do(func() { p.container.sandbox.tasks.Go(p.awaitDeath) })
	if !silent || !p.container.isLast() {
		return false
	}
	p.container.log.WithError(result).Errorf("%s is to be killed: ending its machine", p)
	p.container.guest.kill()
	return true
}

// awaitDeath ends the machine if a container that was killed does not end: nobody else
// could, and its pod would be for ever. As long as others of its pod run it is for them, or
// for who ends the pod, to end first.
func (p *Process) awaitDeath() {
	timer := time.NewTicker(deathTimeout)
	defer timer.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-p.container.sandbox.life.Done():
			return
		case <-timer.C:
		}
		p.container.log.Errorf("%s was killed and has not ended within %s", p, deathTimeout)
		if p.container.isLast() {
			p.container.log.Error("ending its machine")
			p.container.guest.kill()
			return
		}
	}
}

// Resize sets the size of the process's terminal, in characters.
func (p *Process) Resize(ctx context.Context, width, height uint32) error {
	agent, err := p.container.guest.call()
	if err != nil {
		return err
	}
	if err := agent.resize(ctx, &agentv1.ResizeTerminalRequest{
		ContainerId: p.container.id,
		ExecId:      p.id,
		Width:       width,
		Height:      height,
	}); err != nil {
		return fmt.Errorf("resizing the terminal of %s: %w", p, err)
	}
	return nil
}

// Done is closed when the process has ended, also with its machine.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit is how the process ended. It may be called once Done is closed.
func (p *Process) Exit() Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

// Delete releases the process, and with its init the container.
// errdefs.ErrFailedPrecondition while it runs.
func (p *Process) Delete(ctx context.Context) error {
	if err := p.mustBe(Stopped, Created); err != nil {
		return err
	}
	if p.id == "" {
		return p.container.delete(ctx)
	}
	if agent, err := p.container.guest.call(); err == nil {
		err := agent.delete(ctx, p.ref())
		if forgotten := err == nil || errdefs.IsNotFound(err) || errdefs.IsUnavailable(err); !forgotten {
			if p.State() != Stopped {
				return fmt.Errorf("deleting %s: %w", p, err)
			}
			// It is over, and the host has nothing that the guest could still need.
			p.container.log.WithError(err).Warnf("the guest keeps %s, which has ended", p)
		}
	}
	p.container.removeExec(p)
	return nil
}

// watch waits for the process's end, however long that takes.
func (p *Process) watch() {
	g := p.container.guest
	exit, err := g.agent.wait(g.sandbox.life, p.ref())
	if err != nil {
		select {
		case <-p.container.deleting.Done():
			// It was deleted before it ever ran, and before the wait came.
		default:
			g.conclude(fmt.Errorf("waiting for %s: %w", p, err))
		}
		exit = killed()
	}
	p.mu.Lock()
	p.state, p.exit = Stopped, exit
	p.mu.Unlock()
	close(p.done)
}
