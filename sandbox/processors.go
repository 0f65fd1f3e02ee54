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
	if count > g.cpus {
		g.relimitHost(count)
	}
	have, why, err := g.agent.setCPUs(ctx, count)
	if err != nil {
		if _, gone := g.call(); gone == nil {
			g.sandbox.log.WithError(err).WithField("asked", count).Warn("changing the number of processors that the guest uses")
		}
		return
	}
	if count < g.cpus {
		g.relimitHost(count)
	}
	g.cpus = count
	if have != count {
		g.sandbox.log.WithFields(log.Fields{"asked": count, "vcpus": have, "why": why}).
			Warn("the guest does not use as many processors as its containers' limits ask for")
	}
}

// hostCPUs is how many processors' time the machine's processes may take on the host
// beside what its guest uses: for its devices and its share of files.
const hostCPUs = 1

// limitHost bounds what a guest that does as it likes takes of the host's processors: it
// could use all that its machine can have. Pods are bounded by who made them.
func (g *guest) limitHost(count uint32) error {
	if g.cgroup == nil || !g.alone {
		return nil
	}
	return g.cgroup.LimitCPUs(count + hostCPUs)
}

func (g *guest) relimitHost(count uint32) {
	g.awaitMoved()
	if err := g.limitHost(count); err != nil {
		g.sandbox.log.WithError(err).Warn("the machine's processor time on the host is bounded as before")
	}
}
