package sandbox

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

const (
	// clockError is how far the guest's clock may be from the host's when its
	// containers begin, if that can be had in so many clockTries.
	clockError = 20 * time.Millisecond
	clockTries = 4
)

// setClock sets the guest's wall clock. What takes its time in the guest as it
// starts, a clone's above all, delays the answer to a question and the time that came
// with it alike: so one that took too long is asked again.
func (g *guest) setClock(ctx context.Context) error {
	var way time.Duration // from here to there
	for range clockTries {
		begin := time.Now()
		err := g.agent.setClock(ctx, &agentv1.SetClockRequest{Now: timestamppb.New(begin.Add(way))})
		if err != nil {
			return fmt.Errorf("setting the guest's clock: %w", err)
		}
		took := time.Since(begin)
		if took <= 2*clockError {
			return nil
		}
		// The next may be as slow, or quick.
		way = min(took/2, clockError)
	}
	g.sandbox.log.Warn("the guest is slow: its clock may be behind the host's")
	return nil
}
