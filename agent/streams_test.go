package agent

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

// ended says whether the other end of a stream is closed.
func ended(conn net.Conn) bool {
	conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := conn.Read(make([]byte, 1))
	ne, ok := err.(net.Error)
	return err != nil && !(ok && ne.Timeout())
}

func TestStreamsMeetInEitherOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStreams()
		defer s.close()
		_, early := net.Pipe()
		s.park(1, early)
		if got, err := s.claim(t.Context(), 1); err != nil || got != early {
			t.Errorf("%v %v", got, err)
		}
		time.Sleep(2 * parkTime)
		if ended(early) {
			t.Error("a claimed stream was closed")
		}
		_, late := net.Pipe()
		go func() {
			time.Sleep(parkTime / 2)
			s.park(2, late)
		}()
		if got, err := s.claim(t.Context(), 2); err != nil || got != late {
			t.Errorf("%v %v", got, err)
		}
	})
}

func TestStreamsThatNobodyClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStreams()
		host, guest := net.Pipe()
		s.park(1, guest)
		if ended(host) {
			t.Error("closed at once")
		}
		time.Sleep(parkTime + time.Second)
		if !ended(host) {
			t.Error("kept for too long")
		}
		host2, guest2 := net.Pipe()
		s.park(1, guest2) // the id is free again
		host3, guest3 := net.Pipe()
		s.park(1, guest3)
		if ended(host2) || !ended(host3) {
			t.Error("the second stream of an id took the first one's place")
		}
		host0, guest0 := net.Pipe()
		s.park(0, guest0)
		if !ended(host0) {
			t.Error("0 is no id")
		}
		s.close()
		if !ended(host2) {
			t.Error("open after the session")
		}
		host4, guest4 := net.Pipe()
		s.park(4, guest4)
		if !ended(host4) {
			t.Error("parked after the session")
		}
	})
}

func TestStreamsAreBounded(t *testing.T) {
	s := newStreams()
	defer s.close()
	for id := range uint64(maxParked) {
		_, guest := net.Pipe()
		s.park(id+1, guest)
	}
	host, guest := net.Pipe()
	s.park(maxParked+1, guest)
	if !ended(host) {
		t.Errorf("more than %d streams are kept", maxParked)
	}
}

func TestClaimGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStreams()
		if _, err := s.claim(t.Context(), 1); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("a stream that does not come: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.claim(ctx, 1); err == nil {
			t.Error("claimed nothing")
		}
		go func() {
			time.Sleep(time.Second)
			s.close()
		}()
		if _, err := s.claim(t.Context(), 1); !errdefs.IsUnavailable(err) {
			t.Errorf("the session's end: %v", err)
		}
		if _, err := s.claim(t.Context(), 1); err == nil {
			t.Error("claimed after the session")
		}
	})
}
