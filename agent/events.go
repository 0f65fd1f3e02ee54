package agent

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// eventQueue is how many events a slow host may be behind. Those of connections
// are maxRelays at most.
const eventQueue = 4 * maxRelays

// events passes on what happens in the guest to those who listen at the time.
type events struct {
	mu        sync.Mutex
	listeners map[chan *agentv1.Event]bool
}

func newEvents() *events { return &events{listeners: map[chan *agentv1.Event]bool{}} }

// publish does not wait: a listener that is too far behind is cut off.
func (e *events) publish(ev *agentv1.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for l := range e.listeners {
		select {
		case l <- ev:
		default:
			delete(e.listeners, l)
			close(l)
		}
	}
}

// forward sends events to the host until ctx ends or send fails.
func (e *events) forward(ctx context.Context, send func(*agentv1.Event) error) error {
	l := make(chan *agentv1.Event, eventQueue)
	e.mu.Lock()
	e.listeners[l] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.listeners, l)
		e.mu.Unlock()
	}()
	for {
		select {
		case ev, ok := <-l:
			if !ok {
				return fmt.Errorf("the host is more than %d events behind: %w", eventQueue, errdefs.ErrResourceExhausted)
			}
			if err := send(ev); err != nil {
				return fmt.Errorf("sending an event: %w", err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
