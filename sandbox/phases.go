package sandbox

import (
	"time"

	"github.com/containerd/log"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// maxGuestPhases bounds what is logged of a guest's own account of its boot.
const maxGuestPhases = 16

// phases measures the steps of a boot, in milliseconds each.
type phases struct {
	begin, last time.Time
	steps       log.Fields
}

func newPhases() *phases {
	now := time.Now()
	return &phases{begin: now, last: now, steps: log.Fields{}}
}

// end names the step that ended now.
func (p *phases) end(name string) {
	now := time.Now()
	p.steps[name+"_ms"] = milliseconds(now.Sub(p.last))
	p.last = now
}

// guest adds the guest's own phases: milliseconds since its kernel started.
func (p *phases) guest(list []*agentv1.Phase) {
	for _, phase := range list[:min(len(list), maxGuestPhases)] {
		at := time.Duration(min(phase.GetAtUs(), 1<<40)) * time.Microsecond
		p.steps["guest_"+printable(phase.GetName(), 32)+"_at_ms"] = milliseconds(at)
	}
}

func (p *phases) fields() log.Fields {
	p.steps["boot_ms"] = milliseconds(time.Since(p.begin))
	return p.steps
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(100*time.Microsecond).Microseconds()) / 1000
}
