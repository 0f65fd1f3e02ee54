package factory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/log"

	"github.com/hyperhq/hyper/virtcontainers"
)

// partnerTimeout bounds the end of one process of a machine after the other's.
const partnerTimeout = 10 * time.Second

// afterwardsTimeout bounds what is done when the guest has answered.
const afterwardsTimeout = 30 * time.Second

// Machine is a virtual machine and the daemon that serves its share.
type Machine struct {
	virtcontainers.VM
	share daemon    // nil if it has none
	held  io.Closer // what it needs as long as it lives, or nil
	// Cloned says that it goes on where a template was saved.
	Cloned bool
	// disown takes note that the guest does not answer as it should, or is nil.
	disown func(error) error
	// afterwards is done when the guest has answered, or nil.
	afterwards func(context.Context) error
	done       chan struct{}
	err        error // written before done is closed, read after
}

// daemon is what a machine needs of the process that serves its share.
type daemon interface {
	PID() int
	Done() <-chan struct{}
	Err() error
	Kill(context.Context) error
}

// Process is one process of a machine on the host.
type Process struct {
	PID  int
	Name string
}

// newMachine makes a machine of its parts: share and held, which is closed when the
// machine has ended, may be nil.
func newMachine(vm virtcontainers.VM, share daemon, held io.Closer) *Machine {
	m := &Machine{VM: vm, share: share, held: held, done: make(chan struct{})}
	go m.watch()
	return m
}

// Answered tells that the guest has answered: what would have been in its way may be
// done now. It is called once, and returns when that is done.
func (m *Machine) Answered(ctx context.Context) {
	if m.afterwards == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, afterwardsTimeout)
	defer cancel()
	if err := m.afterwards(ctx); err != nil && ctx.Err() == nil {
		log.L.WithError(err).Warn("a machine works, but not all that it should have is there")
	}
}

// Failed tells that the guest has not answered: if the machine is a clone, no other
// shall be made like it.
func (m *Machine) Failed(err error) {
	if m.disown == nil {
		return
	}
	if err := m.disown(err); err != nil {
		log.L.WithError(err).Warn("a template of no use may be used again")
	}
}

// watch ends the machine as a whole when one of its processes ends.
func (m *Machine) watch() {
	var err error
	var shareDone <-chan struct{} // never, if there is no share
	if m.share != nil {
		shareDone = m.share.Done()
	}
	select {
	case <-m.VM.Done():
		err = m.VM.Err()
	case <-shareDone:
		if err = m.share.Err(); err != nil {
			err = fmt.Errorf("the daemon that shares files with the guest ended: %w", err)
		}
		// A daemon ends by itself when its machine hangs up: then the machine
		// says why.
		err = errors.Join(err, m.VM.Err())
	}
	ctx, cancel := context.WithTimeout(context.Background(), partnerTimeout)
	defer cancel()
	if undo := m.end(ctx); undo != nil {
		log.L.WithError(undo).Error("ending a machine")
	}
	if m.held != nil {
		if err := m.held.Close(); err != nil {
			log.L.WithError(err).Warn("ending a machine")
		}
	}
	m.err = err
	close(m.done)
}

func (m *Machine) end(ctx context.Context) error {
	err := m.VM.Kill(ctx)
	if m.share != nil {
		err = errors.Join(err, m.share.Kill(ctx))
	}
	return err
}

// Processes are the machine's processes on the host.
func (m *Machine) Processes() []Process {
	all := []Process{{m.VM.PID(), "qemu"}}
	if m.share != nil {
		all = append(all, Process{m.share.PID(), "virtiofsd"})
	}
	return all
}

// Done is closed once all of the machine's processes are gone.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err says why the machine ended, as virtcontainers.VM does.
func (m *Machine) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// Kill ends the machine at once and returns when all of it is gone.
func (m *Machine) Kill(ctx context.Context) error {
	if err := m.end(ctx); err != nil {
		return err
	}
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the machine's end: %w", ctx.Err())
	}
}
