// Package event publishes a shim's events to containerd.
//
// Events leave in the order in which they were put in: there is one queue with
// one goroutine, and an event that can not be delivered holds back those behind
// it, since an exit that overtakes its start would be worse than a late one.
// containerd may be away for a while (it restarts); an event is tried again
// until it is a minute old. One that containerd took without saying so is sent
// twice, which is better than a lost exit.
package event

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// maxQueue bounds the queue; of more, the oldest are dropped.
	maxQueue = 8192
	// maxAge is how old an event may get.
	maxAge = time.Minute
	// sendTimeout bounds one try.
	sendTimeout = 5 * time.Second
	// firstPause and maxPause are how long after a failure the next try is.
	firstPause = 50 * time.Millisecond
	maxPause   = 2 * time.Second
)

// Forwarder delivers one event.
type Forwarder interface {
	Forward(ctx context.Context, e *types.Envelope) error
}

// Queue delivers events in order. Its goroutine lives until Close.
type Queue struct {
	namespace string
	to        Forwarder
	cancel    context.CancelFunc
	wake      chan struct{} // has a token when pending or closed has changed
	done      chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	pending []*types.Envelope
	closed  bool
}

// NewQueue starts a queue of events of a containerd namespace. ctx carries the
// log; its end does not end the queue.
func NewQueue(ctx context.Context, namespace string, to Forwarder) *Queue {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	q := &Queue{
		namespace: namespace,
		to:        to,
		cancel:    cancel,
		wake:      make(chan struct{}, 1),
		done:      make(chan struct{}),
	}
	go q.run(ctx)
	return q
}

// Publish puts an event at the end of the queue. It does not wait. After Close
// it does nothing.
func (q *Queue) Publish(topic string, event proto.Message) {
	value, err := proto.Marshal(event)
	if err != nil {
		log.L.WithError(err).Errorf("encode event %s", topic)
		return
	}
	e := &types.Envelope{
		Timestamp: timestamppb.Now(),
		Namespace: q.namespace,
		Topic:     topic,
		// containerd names types without a host.
		Event: &anypb.Any{TypeUrl: string(event.ProtoReflect().Descriptor().FullName()), Value: value},
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if len(q.pending) >= maxQueue {
		log.L.Errorf("event %s is dropped: %d are waiting for containerd", q.pending[0].Topic, len(q.pending))
		q.pending = q.pending[1:]
	}
	q.pending = append(q.pending, e)
	q.notify()
}

// Close delivers what is in the queue, as long as ctx allows, and ends it.
func (q *Queue) Close(ctx context.Context) error {
	q.mu.Lock()
	q.closed = true
	q.notify()
	q.mu.Unlock()
	defer q.cancel()
	select {
	case <-q.done:
		return nil
	case <-ctx.Done():
	}
	q.cancel()
	<-q.done
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.pending); n > 0 {
		return fmt.Errorf("%d events were not delivered to containerd: %w", n, context.Cause(ctx))
	}
	return nil
}

func (q *Queue) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *Queue) run(ctx context.Context) {
	defer close(q.done)
	for {
		e, closed := q.first()
		switch {
		case e != nil:
			if !q.deliver(ctx, e) {
				return
			}
			q.remove(e)
		case closed:
			return
		default:
			select {
			case <-q.wake:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (q *Queue) first() (e *types.Envelope, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.pending) > 0 {
		e = q.pending[0]
	}
	return e, q.closed
}

// remove takes out the first event, unless it has been dropped meanwhile.
func (q *Queue) remove(e *types.Envelope) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.pending) > 0 && q.pending[0] == e {
		q.pending[0] = nil
		q.pending = q.pending[1:]
	}
}

// deliver sends e until it is delivered or too old; it reports false when ctx
// is done before that.
func (q *Queue) deliver(ctx context.Context, e *types.Envelope) bool {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		sctx, cancel := context.WithTimeout(ctx, sendTimeout)
		err := q.to.Forward(sctx, e)
		cancel()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if time.Since(e.Timestamp.AsTime()) > maxAge {
			log.L.WithError(err).Errorf("event %s is dropped: containerd did not take it", e.Topic)
			return true
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}
