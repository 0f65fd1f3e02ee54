package sandbox

import (
	"context"

	"github.com/containerd/log"
)

// setCPUs has the guest use so many of the machine's processors. It is called by whose
// turn it is to change the machine's size, or before anybody can.
//
// A guest that does not is no reason to refuse a container: a limit holds on fewer
// processors too. And whatever it answers is not relied on.
func (g *guest) setCPUs(ctx context.Context, count uint32) {
	if count == g.cpus {
		return
	}
	have, why, err := g.agent.setCPUs(ctx, count)
	if err != nil {
		if _, gone := g.call(); gone == nil {
			g.sandbox.log.WithError(err).WithField("asked", count).Warn("changing the number of processors that the guest uses")
		}
		return
	}
	g.cpus = count
	if have != count {
		g.sandbox.log.WithFields(log.Fields{"asked": count, "vcpus": have, "why": why}).
			Warn("the guest does not use as many processors as its containers' limits ask for")
	}
}
