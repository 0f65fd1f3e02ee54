package qemu

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"
)

func TestSlots(t *testing.T) {
	var s slots
	for want := 1; want <= hotplugSlots; want++ {
		if got, ok := s.take(); got != want || !ok {
			t.Fatalf("take() = %d, %v, want %d", got, ok, want)
		}
	}
	if got, ok := s.take(); ok {
		t.Errorf("take() of a full bus = %d", got)
	}
	s.give(31)
	s.give(7)
	for _, want := range []int{7, 31} {
		if got, ok := s.take(); got != want || !ok {
			t.Errorf("take() = %d, %v, want %d", got, ok, want)
		}
	}
}

// TestPlugTurns has two wait for the turn with a plug that the third releases.
func TestPlugTurns(t *testing.T) {
	var ps plugs
	p, err := ps.take("a")
	if err != nil {
		t.Fatal(err)
	}
	_, err = ps.take("a")
	checkError(t, err, errdefs.ErrAlreadyExists)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = ps.find(cancelled, "a")
	checkError(t, err, context.Canceled)
	_, err = ps.find(t.Context(), "b")
	checkError(t, err, errdefs.ErrNotFound)

	waited := make(chan error)
	for range 2 {
		go func() {
			_, err := ps.find(t.Context(), "a")
			waited <- err
		}()
	}
	ps.deleted(p.device)
	ps.deleted(p.device)
	ps.deleted("b")
	<-p.gone
	ps.release(p)
	p.leave()
	for range 2 {
		checkError(t, <-waited, errdefs.ErrNotFound)
	}
	again, err := ps.take("a")
	if err != nil || again.slot != p.slot {
		t.Fatalf("take() after a release = %+v, %v", again, err)
	}
	ps.deleted(p.device) // late
	select {
	case <-again.gone:
		t.Error("the second plug is gone with the first")
	default:
	}
}
