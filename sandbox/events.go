package sandbox

import (
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// forwardEvents passes on what the guest tells unasked, until the session ends.
func (s *Sandbox) forwardEvents(g *guest) {
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
