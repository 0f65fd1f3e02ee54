package sandbox

import (
	"context"
	"time"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// oomPace is how often at most a guest can have its host tell that a container was out of
// memory: everybody on the host is told.
const oomPace = time.Second

// forwardEvents passes on what the guest tells unasked, until the session ends.
// Connections that it tells of end with ctx.
func (s *Sandbox) forwardEvents(ctx context.Context, g *guest) {
	relays := newRelays(g)
	defer relays.wait()
	stream, err := g.agent.raw.Events(s.life, &agentv1.EventsRequest{})
	if err != nil {
		s.log.WithError(err).Warn("no events from the guest")
		return
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			return // the session has ended, which others notice
		}
		if c := event.GetConnection(); c != nil {
			relays.begin(ctx, c)
			continue
		}
		oom := event.GetOom()
		if oom == nil {
			continue
		}
		c, err := s.Container(oom.GetContainerId())
		if err != nil || time.Since(c.lastOOM) < oomPace {
			continue
		}
		c.lastOOM = time.Now()
		select {
		case s.oom <- oom.GetContainerId():
		default: // a guest cannot make the host keep more than the queue holds
		}
	}
}
