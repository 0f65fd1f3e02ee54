package sandbox

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// oomFlood is an agent that tells of containers without memory, in turns, so many times.
type oomFlood struct {
	agentv1.AgentClient
	agentv1.Agent_EventsClient
	containers []string
	left       int
}

func (f *oomFlood) Events(context.Context, *agentv1.EventsRequest) (agentv1.Agent_EventsClient, error) {
	return f, nil
}

func (f *oomFlood) Recv() (*agentv1.Event, error) {
	if f.left == 0 {
		return nil, io.EOF
	}
	f.left--
	time.Sleep(time.Millisecond)
	id := f.containers[f.left%len(f.containers)]
	return &agentv1.Event{Event: &agentv1.Event_Oom{Oom: &agentv1.OOM{ContainerId: id}}}, nil
}

// TestOOMsOfAGuestAreBounded has a guest tell for three seconds, a thousand times in each,
// that containers were out of memory.
func TestOOMsOfAGuestAreBounded(t *testing.T) {
	s := newTestSandbox(t, nil)
	synctest.Test(t, func(t *testing.T) {
		g := newGuest(s, hardware{})
		flood := &oomFlood{containers: []string{"a", "unknown", "b"}, left: 3000}
		g.agent = &agentClient{raw: flood}
		s.containers = map[string]*Container{"a": {id: "a", created: true}, "b": {id: "b", created: true}}
		s.forwardEvents(t.Context(), g)
		told := map[string]int{}
		for len(s.oom) > 0 {
			told[<-s.oom]++
		}
		if len(told) != 2 || told["a"] != 3 || told["b"] != 3 {
			t.Errorf("the host is told %v", told)
		}
		s.containers = nil // there is nothing of them to release
	})
}
