package qemu

import (
	"context"
	"fmt"
	"math/bits"
	"sync"

	"github.com/containerd/errdefs"
)

const (
	// hotplugBus is where devices are plugged into a running machine: a bridge,
	// because q35's own bus takes none.
	hotplugBus = "hot"
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
	id   string // the device's in QEMU
	slot int
	// asked says that the guest was asked to let go. It is of whose turn it is.
	asked bool
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
	p := &plug{id: id, slot: slot, turn: make(chan struct{}, 1), gone: make(chan struct{})}
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
func (ps *plugs) deleted(id string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.byID[id]
	if p == nil {
		return
	}
	select {
	case <-p.gone:
	default:
		close(p.gone)
	}
}
