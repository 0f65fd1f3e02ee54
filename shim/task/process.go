package task

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/hyperhq/hyper/shim/stdio"
)

const (
	// killed is the status of a process whose end nobody saw: 128 + SIGKILL.
	killed = 137
	// signalsLate is how long an exit is held back for the answers to signals.
	signalsLate = time.Second
)

// process is a container's init or an exec.
type process struct {
	id     string // exec id, empty for an init
	config stdio.Config
	stdio  *stdio.Stdio
	guest  Process

	// life ends by abandon: the process was deleted and has not run.
	life    context.Context
	abandon context.CancelFunc
	// draining ends by rush: output is not waited for any longer.
	draining context.Context
	rush     context.CancelFunc
	// finished is closed once the process has exited, its output is drained
	// and its exit published. exit is final then.
	finished chan struct{}

	mu       sync.Mutex
	exit     Exit
	starting chan struct{} // not nil while Start runs, closed at its end
	started  bool
	exited   bool // nothing can be started any more
	deleting bool
	dying    bool // it has been killed: see awaitDeath
	// signals are those on their way; no more begin once quiet is there, which is
	// closed when the last one has been answered.
	signals int
	quiet   chan struct{}
}

func newProcess(ctx context.Context, id string, c stdio.Config, s *stdio.Stdio, guest Process) *process {
	p := &process{id: id, config: c, stdio: s, guest: guest, finished: make(chan struct{})}
	p.life, p.abandon = context.WithCancel(ctx)
	p.draining, p.rush = context.WithCancel(ctx)
	return p
}

func (p *process) name() string {
	if p.id == "" {
		return "task"
	}
	return fmt.Sprintf("exec %q", p.id)
}

// start starts the process and publishes it with announce, which is thereby
// ahead of the exit.
func (p *process) start(ctx context.Context, announce func()) error {
	if err := p.beginStart(); err != nil {
		return err
	}
	err := p.guest.Start(ctx)
	if err == nil {
		announce()
	}
	p.endStart(err == nil)
	if err != nil {
		return err
	}
	if err := p.stdio.Start(); err != nil {
		// The process runs; that it can not be fed is no reason to lose it.
		log.G(ctx).WithError(err).Errorf("%s gets no stdin", p.name())
	}
	return nil
}

func (p *process) beginStart() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.exited, p.deleting:
		return fmt.Errorf("start %s: it has stopped: %w", p.name(), errdefs.ErrFailedPrecondition)
	case p.started, p.starting != nil:
		return fmt.Errorf("start %s: it has been started: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	p.starting = make(chan struct{})
	return nil
}

func (p *process) endStart(started bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = started
	close(p.starting)
	p.starting = nil
}

// awaitExit waits for the end of the process in the guest, and for that of a
// Start that runs. It reports whether the process had been started.
func (p *process) awaitExit() (e Exit, started bool) {
	select {
	case <-p.guest.Done():
	case <-p.life.Done():
	}
	select {
	case <-p.guest.Done():
		e = p.guest.Exit()
	default:
		e = Exit{Status: killed, At: time.Now()}
	}
	p.mu.Lock()
	p.exited = true
	starting := p.starting
	p.mu.Unlock()
	if starting != nil {
		<-starting // it ends: the process is gone
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return e, p.started
}

// drain waits for the process's output to be written.
func (p *process) drain(e Exit) {
	if err := p.stdio.Drain(p.draining, e.StdoutBytes, e.StderrBytes); err != nil {
		log.G(p.draining).WithError(err).Warnf("%s: output was not read to its end", p.name())
	}
}

// giveUp loses output that nobody reads: neither the exit nor the process waits
// for a reader any more.
func (p *process) giveUp() {
	p.rush()
	p.stdio.Discard()
}

// beginDeath reports whether the process is killed for the first time.
func (p *process) beginDeath() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.dying
	p.dying = true
	return !was
}

// awaitDeath sees that a process that was killed ends. The guest does not tell
// its end before all that it wrote has been taken, which never happens when
// nobody reads. That is a running process's own affair, not a killed one's.
func (p *process) awaitDeath() {
	ctx, cancel := context.WithCancel(p.draining)
	defer cancel()
	stalled := make(chan bool, 1)
	go func() { stalled <- p.stdio.Stalled(ctx) }()
	select {
	case <-p.guest.Done():
		cancel()
		<-stalled
	case yes := <-stalled:
		if yes {
			log.G(ctx).Warnf("%s was killed and nobody reads its output: the rest is lost", p.name())
			p.stdio.Discard()
		}
	}
}

// beginSignal reports whether the process can still be signalled. If so,
// endSignal must follow.
func (p *process) beginSignal() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet != nil {
		return false
	}
	p.signals++
	return true
}

func (p *process) endSignal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.signals--; p.signals == 0 && p.quiet != nil {
		close(p.quiet)
	}
}

// hush refuses signals from here on and waits for the answers to those on their
// way. Whoever hears of the exit may end the shim, and with it the connection on
// which another awaits the answer to the signal that brought the exit about.
func (p *process) hush() {
	p.mu.Lock()
	p.quiet = make(chan struct{})
	if p.signals == 0 {
		close(p.quiet)
	}
	p.mu.Unlock()
	timer := time.NewTimer(signalsLate)
	defer timer.Stop()
	select {
	case <-p.quiet:
	case <-timer.C:
	}
}

// finish makes the exit known; publish comes first.
func (p *process) finish(e Exit, publish func()) {
	p.hush()
	p.mu.Lock()
	p.exit = e
	p.mu.Unlock()
	publish()
	close(p.finished)
	p.abandon()
	p.rush()
}

// beginDelete refuses starts from here on; it fails while the process runs.
func (p *process) beginDelete() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	finished := false
	select {
	case <-p.finished:
		finished = true
	default:
	}
	switch {
	case p.deleting:
		return fmt.Errorf("delete %s: it is being deleted: %w", p.name(), errdefs.ErrFailedPrecondition)
	case p.starting != nil, p.started && !finished:
		return fmt.Errorf("delete %s: it is running: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	p.deleting = true
	return nil
}

func (p *process) undoDelete() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deleting = false
}

// bar refuses a start that has not begun yet.
func (p *process) bar() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.started && p.starting == nil {
		p.exited = true
	}
}

// settled returns when no Start runs, or expired fires; it reports whether the
// process has been started.
func (p *process) settled(expired <-chan struct{}) bool {
	p.mu.Lock()
	starting := p.starting
	p.mu.Unlock()
	if starting != nil {
		select {
		case <-starting:
		case <-expired:
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.started
}

// state is the process's state as containerd is to see it.
func (p *process) state() State {
	select {
	case <-p.finished:
		return Stopped
	default:
	}
	p.mu.Lock()
	started := p.started
	p.mu.Unlock()
	switch {
	case !started:
		return Created
	case p.guest.State() == Paused:
		return Paused
	}
	return Running
}

// wait returns how the process ended, once it has finished.
func (p *process) wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.finished:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.exit, nil
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("wait for %s: %w", p.name(), context.Cause(ctx))
	}
}
