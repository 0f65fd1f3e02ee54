package sandbox

import (
	"context"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

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
		if _, err := s.Container(oom.GetContainerId()); err != nil {
			continue
		}
		select {
		case s.oom <- oom.GetContainerId():
		default: // a guest cannot make the host keep more than the queue holds
		}
	}
}
