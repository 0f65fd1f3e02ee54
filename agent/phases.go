package agent

import (
	"sync"

	"golang.org/x/sys/unix"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// sinceBoot is the time since the guest's kernel started, in microseconds.
func sinceBoot() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return uint64(ts.Nano()) / 1000
}

// phases is when each step of the boot had ended.
type phases struct {
	mu   sync.Mutex
	list []*agentv1.Phase
}

// mark records that the phase ends now. A phase that comes again, as it does in
// a second session, keeps its first time.
func (p *phases) mark(name string) {
	at := sinceBoot()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ph := range p.list {
		if ph.Name == name {
			return
		}
	}
	p.list = append(p.list, &agentv1.Phase{Name: name, AtUs: at})
}

func (p *phases) all() []*agentv1.Phase {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*agentv1.Phase(nil), p.list...)
}
