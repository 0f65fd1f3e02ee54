package agent

import (
	"io"
	"net"
	"testing"
	"time"
)

// TestForwardIsBounded forwards while there are as many connections as there may
// be, and to what is no port. Neither reaches the network.
func TestForwardIsBounded(t *testing.T) {
	for _, c := range []struct {
		what string
		port uint64
		busy int
	}{
		{"one too many", 80, maxForwards},
		{"port 0", 0, 0},
		{"port 65536", 65536, 0},
	} {
		a := &Agent{log: &logger{w: io.Discard, clock: func() uint64 { return 0 }}, forwards: make(chan struct{}, maxForwards)}
		for range c.busy {
			a.forwards <- struct{}{}
		}
		host, guest := net.Pipe()
		host.SetDeadline(time.Now().Add(10 * time.Second))
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			a.forward(t.Context(), c.port, guest, nil)
		}()
		answer, err := io.ReadAll(host)
		if err != nil || len(answer) != 1 || answer[0] != 1 {
			t.Errorf("%s: answered %x, %v", c.what, answer, err)
		}
		<-ended
		if len(a.forwards) != c.busy {
			t.Errorf("%s: %d places are taken, %d before", c.what, len(a.forwards), c.busy)
		}
	}
}
