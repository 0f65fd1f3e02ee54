package sandbox

import (
	"strings"
	"time"

	"github.com/containerd/log"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/sandbox/record"
)

const (
	// maxGuestPhases and maxPhaseName bound what is told of a guest's own account of its
	// boot: how many, and how long a name may be.
	maxGuestPhases = 16
	maxPhaseName   = 32
)

// phases measures the steps of a boot, in milliseconds each.
type phases struct {
	begin, last time.Time
	from        string
	steps       map[string]float64
}

func newPhases() *phases {
	now := time.Now()
	return &phases{begin: now, last: now, from: record.Boot, steps: make(map[string]float64)}
}

// end names the step that ended now.
func (p *phases) end(name string) {
	now := time.Now()
	p.steps[name] = milliseconds(now.Sub(p.last))
	p.last = now
}

// guest adds the guest's own phases: milliseconds since its kernel started.
func (p *phases) guest(list []*agentv1.Phase) {
	for _, phase := range list[:min(len(list), maxGuestPhases)] {
		name := phase.GetName()
		if !isPhaseName(name) {
			continue
		}
		at := time.Duration(min(phase.GetAtUs(), 1<<40)) * time.Microsecond
		p.steps["guest_"+name+"_at"] = milliseconds(at)
	}
}

// isPhaseName keeps a guest from writing other fields into a line of the log than its own.
func isPhaseName(name string) bool {
	other := func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') }
	return name != "" && len(name) <= maxPhaseName && !strings.ContainsFunc(name, other)
}

// ready ends the measurement: the guest can be used.
func (p *phases) ready() { p.steps["boot"] = milliseconds(time.Since(p.begin)) }

// fields are the phases for the log.
func (p *phases) fields() log.Fields {
	fields := log.Fields{"from": p.from}
	for name, ms := range p.steps {
		fields[name+"_ms"] = ms
	}
	return fields
}

// record are the phases for whoever looks at the sandbox later.
func (p *phases) record(namespace, id string) *record.Start {
	return &record.Start{Namespace: namespace, Sandbox: id, From: p.from, Ready: time.Now(), Phases: p.steps}
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(100*time.Microsecond).Microseconds()) / 1000
}
