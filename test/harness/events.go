package harness

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Event is one of containerd's events about one container.
type Event struct {
	// Topic is as containerd names it, such as "/tasks/exit".
	Topic string
	// Process is the id of the exec, or of the container for its init.
	Process string
	// Status is of an exit.
	Status uint32
	// Exited is when, for an exit.
	Exited time.Time
	// Seen is when this process got to know.
	Seen time.Time
}

// String is the topic's last word with the process.
func (e Event) String() string { return filepath.Base(e.Topic) + " " + e.Process }

// Events are a container's events, in the order in which they came.
type Events struct {
	container string
	mu        sync.Mutex
	seen      []Event
	more      chan struct{}
}

// Watch collects the container's events from now on.
func (c *Container) Watch(t T) *Events {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := c.Cell.client.events.Subscribe(ctx, &eventsapi.SubscribeRequest{})
	if err != nil {
		cancel()
		t.Fatalf("subscribing to events: %v", err)
	}
	e := &Events{container: c.ID, more: make(chan struct{})}
	ready, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-done
	})
	go func() {
		defer close(done)
		e.receive(stream, ready)
	}()
	c.Cell.awaitSubscription(t, ready)
	return e
}

const readyTopic = "/hyper-test/ready"

// awaitSubscription publishes until the first event arrives: only then it is
// certain that containerd has begun to forward them.
func (c *Cell) awaitSubscription(t T, ready <-chan struct{}) {
	t.Helper()
	ctx, cancel := request(t)
	defer cancel()
	nothing, err := anypb.New(&emptypb.Empty{})
	if err != nil {
		t.Fatalf("encoding an event: %v", err)
	}
	for {
		if _, err := c.client.events.Publish(ctx, &eventsapi.PublishRequest{Topic: readyTopic, Event: nothing}); err != nil {
			t.Fatalf("publishing an event: %v", err)
		}
		select {
		case <-ready:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (e *Events) receive(stream eventsapi.Events_SubscribeClient, ready chan<- struct{}) {
	announced := false
	for {
		envelope, err := stream.Recv()
		if err != nil {
			return
		}
		if !announced {
			close(ready)
			announced = true
		}
		event, ok := decode(envelope.Topic, envelope.Event, e.container)
		if !ok {
			continue
		}
		e.mu.Lock()
		e.seen = append(e.seen, event)
		close(e.more)
		e.more = make(chan struct{})
		e.mu.Unlock()
	}
}

// decode understands the events of tasks; those of other containers, and all
// others, are not ok.
func decode(topic string, encoded *anypb.Any, container string) (Event, bool) {
	var message proto.Message
	// The type's name has no scheme here, so the registry cannot find it.
	for name, m := range map[string]proto.Message{
		"/tasks/create": &events.TaskCreate{}, "/tasks/start": &events.TaskStart{}, "/tasks/exit": &events.TaskExit{},
		"/tasks/delete": &events.TaskDelete{}, "/tasks/exec-added": &events.TaskExecAdded{},
		"/tasks/exec-started": &events.TaskExecStarted{}, "/tasks/oom": &events.TaskOOM{},
		"/tasks/paused": &events.TaskPaused{}, "/tasks/resumed": &events.TaskResumed{},
	} {
		if name == topic {
			message = m
		}
	}
	if message == nil || proto.Unmarshal(encoded.GetValue(), message) != nil {
		return Event{}, false
	}
	about, ok := message.(interface{ GetContainerID() string })
	if !ok || about.GetContainerID() != container {
		return Event{}, false
	}
	event := Event{Topic: topic, Process: container, Seen: time.Now()}
	switch m := message.(type) {
	case *events.TaskExit:
		event.Process, event.Status, event.Exited = m.ID, m.ExitStatus, m.ExitedAt.AsTime()
	case *events.TaskDelete:
		if m.ID != "" {
			event.Process = m.ID
		}
	case *events.TaskExecAdded:
		event.Process = m.ExecID
	case *events.TaskExecStarted:
		event.Process = m.ExecID
	}
	return event, true
}

// Seen lists what has come so far.
func (e *Events) Seen() []Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]Event(nil), e.seen...)
}

// Expect waits until there is an event that prints as text, such as
// "exit c1", and returns it; if time runs out the test fails.
func (e *Events) Expect(t T, text string, limit time.Duration) Event {
	t.Helper()
	timeout := time.After(limit)
	for {
		e.mu.Lock()
		seen, more := append([]Event(nil), e.seen...), e.more
		e.mu.Unlock()
		for _, event := range seen {
			if event.String() == text {
				return event
			}
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("no event %q within %v; there were %s", text, limit, fmt.Sprint(seen))
		}
	}
}
