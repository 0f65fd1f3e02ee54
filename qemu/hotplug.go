package qemu

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/qemu/qmp"
	"github.com/hyperhq/hyper/virtcontainers"
)

const (
	// hotplugBus is where devices are plugged into a running machine: a bridge,
	// because q35's own bus takes none.
	hotplugBus = "hot"
	// askInterval is how long a guest has to let go of a device before it is asked
	// again.
	askInterval = time.Second
	// hotplugSlots is how many devices it takes, from slot 1 on: slot 0 is not free.
	hotplugSlots = 31
)

// slots are the places of a bus. The zero value is an empty bus of 31.
type slots struct{ used uint32 }

// take returns a free place, 1 to hotplugSlots, or false.
func (s *slots) take() (int, bool) {
	n := bits.TrailingZeros32(^(s.used | 1))
	if n > hotplugSlots {
		return 0, false
	}
	s.used |= 1 << n
	return n, true
}

func (s *slots) give(n int) { s.used &^= 1 << n }

// plug is one device that is plugged into a running machine, or about to be.
//
//	taken ──device_add──▶ in ──device_del, the guest lets go──▶ gone ──▶ released
//
// The guest can let go unasked. The plug is then gone but not released: what QEMU
// keeps beside the device, and the id, are freed by whoever detaches it.
type plug struct {
	id string
	// device is its name in QEMU, which no other has had: what QEMU says of one that
	// is gone may come late, and must not be taken for what it says of the next.
	device string
	number uint64 // of the plug, among all that there ever were
	slot   int
	// asked says that the guest was asked to let go. It is of whose turn it is.
	asked bool
	// backed says that the host's side is there for certain, which is of whose turn
	// it is too.
	backed bool
	// place is of a device that is there from the start for a disk to be put in, and
	// nil of all others. vacant says that this is yet to happen, and is of whose turn
	// it is.
	place  *virtcontainers.DiskPlace
	vacant bool
	// turn has room for the one who attaches or detaches.
	turn chan struct{}
	// gone is closed when the guest has let go of the device.
	gone chan struct{}
}

// address is the plug's slot as QEMU's device_add takes it.
func (p *plug) address() string { return fmt.Sprintf("%#x", p.slot) }

// plugs are those of one machine. The zero value has none.
type plugs struct {
	mu    sync.Mutex
	slots slots
	byID  map[string]*plug
	taken uint64 // ever
}

// take makes a plug, whose turn is the caller's.
func (ps *plugs) take(id string) (*plug, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.byID[id] != nil {
		return nil, fmt.Errorf("the machine has a device of this id: detach it first, or use another: %w", errdefs.ErrAlreadyExists)
	}
	slot, ok := ps.slots.take()
	if !ok {
		return nil, fmt.Errorf("all %d places for devices are taken: detach one first: %w", hotplugSlots, errdefs.ErrResourceExhausted)
	}
	ps.taken++
	p := &plug{
		id:     id,
		device: fmt.Sprintf("%s-%d", id, ps.taken),
		number: ps.taken,
		slot:   slot,
		turn:   make(chan struct{}, 1),
		gone:   make(chan struct{}),
	}
	p.turn <- struct{}{}
	if ps.byID == nil {
		ps.byID = map[string]*plug{}
	}
	ps.byID[id] = p
	return p, nil
}

// find waits for the turn with a plug, which is then the caller's.
func (ps *plugs) find(ctx context.Context, id string) (*plug, error) {
	absent := fmt.Errorf("the machine has no device of this id: %w", errdefs.ErrNotFound)
	p := ps.get(id)
	if p == nil {
		return nil, absent
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another who attaches or detaches it: %w", ctx.Err())
	}
	if ps.get(id) != p { // the other has released it
		p.leave()
		return nil, absent
	}
	return p, nil
}

func (ps *plugs) get(id string) *plug {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.byID[id]
}

// leave ends a turn.
func (p *plug) leave() { <-p.turn }

// release frees a plug's id and slot.
func (ps *plugs) release(p *plug) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.byID, p.id)
	ps.slots.give(p.slot)
}

// deleted takes note that QEMU has a device no more.
func (ps *plugs) deleted(device string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.byID {
		if p.device != device {
			continue
		}
		select {
		case <-p.gone:
		default:
			close(p.gone)
		}
	}
}

// checkHotplug refuses what cannot be done with this machine, or no more.
func (m *machine) checkHotplug(ctx context.Context) error {
	switch {
	case !m.hotplug:
		return fmt.Errorf("a %s has no hotplug: use machine %q: %w", MachineMicroVM, MachineQ35, errdefs.ErrNotImplemented)
	case m.ended():
		return errEnded
	default:
		return ctx.Err()
	}
}

var errEnded = fmt.Errorf("it is gone: %w", errdefs.ErrUnavailable)

func (m *machine) ended() bool {
	select {
	case <-m.proc.Done():
		return true
	default:
		return false
	}
}

// orGone says of a failure that it is due to the machine's end, if it is.
func (m *machine) orGone(err error) error {
	if err != nil && m.ended() && !errdefs.IsUnavailable(err) {
		return fmt.Errorf("%w: %w", errEnded, err)
	}
	return err
}

// unplug has the guest let go of a device and waits until it has. It may be called
// again.
//
// A kernel that boots clears what it was asked before, and nothing tells that it
// has: so it is asked again until it answers.
func (m *machine) unplug(ctx context.Context, p *plug) error {
	again := time.NewTicker(askInterval)
	defer again.Stop()
	for {
		err := m.monitor.DelDevice(ctx, p.device)
		if qmp.IsNotFound(err) {
			return nil
		}
		// QEMU may refuse to ask what it has asked before.
		var refused *qmp.Error
		if err != nil && !(errors.As(err, &refused) && p.asked) {
			return err
		}
		p.asked = true
		select {
		case <-p.gone:
			return nil
		case <-m.proc.Done():
			return errEnded
		case <-ctx.Done():
			return fmt.Errorf("the guest does not let go of it: %w", ctx.Err())
		case <-again.C:
		}
	}
}
