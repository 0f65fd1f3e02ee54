package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/proto/channel"
	"github.com/hyperhq/hyper/sandbox/factory"
)

// Parked is a machine that was made ahead, has run a container that nobody asked for,
// and waits for its sandbox:
//
//	Park ──▶ waits ──Wake──▶ awake ──Options.Parked──▶ the sandbox's, or ended by it
//	           └── Kill, or its end by itself ──▶ (gone)
type Parked struct {
	wants   Wants
	spec    factory.Spec
	machine *factory.Machine
	session *channel.Session
	agent   *agentClient
	// template is the key of what it was cloned from.
	clones   *factory.Cloning
	template string
	done     chan struct{}
	woken    chan struct{} // closed after wakeErr is written
	wakeErr  error
}

// ParkOptions say what machine is made.
type ParkOptions struct {
	// ID names the machine until it has a sandbox.
	ID string
	// Dir is a private directory that lives as long as the machine.
	Dir    string
	Config *config.Config
	Wants  Wants
}

// ErrNoTemplate says that no machine is made ahead because there is no template of its
// kind.
var ErrNoTemplate = errors.New("there is no template of this kind of machines")

// Park makes a machine from its template and has it run a container, so that the next
// finds all in use that it needs. ErrNoTemplate if there is none: no machine is booted for
// that. When it fails nothing is left behind.
func Park(ctx context.Context, o ParkOptions) (_ *Parked, err error) {
	clones, err := factory.NewCloning(o.Config, nil)
	if err != nil {
		return nil, err
	}
	spec := factory.Spec{
		ID: o.ID, Dir: o.Dir, Size: o.Wants.Size, MaxVCPUs: o.Wants.MaxVCPUs,
		MaxMemoryMiB: o.Config.Limits().MemoryMiB,
		Debug:        o.Config.Sandbox.Debug,
	}
	p := &Parked{wants: o.Wants, spec: spec, clones: clones, done: make(chan struct{}), woken: make(chan struct{})}
	p.machine, p.template, err = clones.Clone(ctx, spec)
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("%w: %w", ErrNoTemplate, err)
	}
	if err != nil {
		return nil, fmt.Errorf("making a machine ahead: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("making a machine ahead: %w", err), p.Kill(context.WithoutCancel(ctx)))
		}
	}()
	if p.session, p.agent, err = connect(ctx, p.machine); err != nil {
		return nil, err
	}
	go p.watch()
	return p, p.rehearse(ctx, o.Config)
}

// watch ends with the machine or the session, which is the end of both.
func (p *Parked) watch() {
	select {
	case <-p.machine.Done():
	case <-p.session.Done():
	}
	close(p.done)
}

// Done is closed when the machine is of no more use.
func (p *Parked) Done() <-chan struct{} { return p.done }

// Processes are the machine's processes on the host.
func (p *Parked) Processes() []factory.Process { return p.machine.Processes() }

// Check says what has changed on the host since the machine was made, so that another
// would be made now: errdefs.ErrFailedPrecondition.
func (p *Parked) Check() error {
	now, err := p.clones.Key(p.spec)
	if err == nil && now != p.template {
		err = fmt.Errorf("what the machine was made of has changed: %w", errdefs.ErrFailedPrecondition)
	}
	return err
}

// wakeTimeout bounds the first words to a machine that has waited.
const wakeTimeout = 5 * time.Second

// Wake gives the guest entropy and the time: from here on it is one of its own. It is
// called once, before the machine is given to a sandbox, which waits for it.
func (p *Parked) Wake() {
	defer close(p.woken)
	ctx, cancel := context.WithTimeout(context.Background(), wakeTimeout)
	defer cancel()
	p.wakeErr = p.identify(ctx)
}

// fits says why the machine cannot be a sandbox's, or nil.
func (p *Parked) fits(ctx context.Context, h hardware) error {
	if !p.wants.meet(h) {
		return fmt.Errorf("it has %+v, a share %v is wanted, and %+v", p.wants, h.share, h.machineOf())
	}
	select {
	case <-p.woken:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-p.done:
		return errors.Join(errors.New("it has ended"), p.machine.Err())
	default:
		return p.wakeErr
	}
}

// Kill ends the machine, and returns when all of it is gone.
func (p *Parked) Kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	if p.session != nil {
		_ = p.session.Close()
	}
	return p.machine.Kill(ctx)
}

// takeParked gives the machine that was made ahead, if there is one and it is what a
// guest is to be. One that is not has no more use, and is ended.
func (s *Sandbox) takeParked(ctx context.Context, h hardware) *Parked {
	p := s.parked.Swap(nil)
	if p == nil {
		return nil
	}
	if err := p.fits(ctx, h); err != nil {
		s.log.WithError(err).Info("the machine that was made ahead is of no use")
		p.discard(s)
		return nil
	}
	return p
}

// discard ends a machine that no sandbox will have, if there is one, and does not wait
// for that: the sandbox does when it stops.
func (p *Parked) discard(s *Sandbox) {
	if p == nil {
		return
	}
	s.tasks.Go(func() {
		if err := p.Kill(context.Background()); err != nil {
			s.log.WithError(err).Error("ending a machine that was made ahead")
		}
	})
}
