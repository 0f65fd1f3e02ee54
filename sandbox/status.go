package sandbox

import (
	"time"

	"github.com/hyperhq/hyper/virtcontainers"
)

// Status is what a sandbox is at one moment.
type Status struct {
	// Ready says that the machine runs and its agent has answered.
	Ready bool
	// PID is a live process of the host that stands for the sandbox, 0 if there
	// is none.
	PID int
	// CreatedAt is when the sandbox was made.
	CreatedAt time.Time
	// Size is the machine's; zero before there is one.
	Size virtcontainers.Size
	// Kernel and Agent are the versions that a guest says it has, once it is
	// ready.
	Kernel, Agent string
}

// Status is what the sandbox is now.
func (s *Sandbox) Status() Status {
	status := Status{CreatedAt: s.createdAt}
	s.mu.Lock()
	g := s.guest
	s.mu.Unlock()
	if g == nil {
		return status
	}
	status.Size = g.size
	select {
	case <-g.ready:
	default:
		status.PID = g.pid() // it boots
		return status
	}
	if g.err != nil {
		return status
	}
	status.Kernel, status.Agent = g.kernel, g.version
	if _, err := g.call(); err == nil {
		status.Ready, status.PID = true, g.pid()
	}
	return status
}

// Done is closed when the sandbox has ended: its machine is gone, for whatever
// reason, or was never booted and cannot be any more.
func (s *Sandbox) Done() <-chan struct{} { return s.ended }

// Exit tells how the sandbox ended, after Done: with status 0 if Stop was asked
// for, with that of a killed process if the machine died or did not boot.
func (s *Sandbox) Exit() Exit { return s.exit }

// end closes Done.
func (s *Sandbox) end() {
	s.ending.Do(func() {
		s.exit = killed()
		if s.life.Err() != nil {
			s.exit.Status = 0
		}
		close(s.ended)
	})
}
