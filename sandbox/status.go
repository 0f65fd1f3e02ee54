package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/sandbox/record"
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
	// Size is what was needed of the machine when it began; zero before there is one.
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

// Metrics are what the sandbox uses of the host: the processes of its machine, and
// this one. What that is more than the numbers of its containers is what the machine
// costs. The network is the guest's, if that answers.
// errdefs.ErrUnavailable if there is no machine.
func (s *Sandbox) Metrics(ctx context.Context) (*stats.Metrics, error) {
	if !s.Status().Ready {
		return nil, fmt.Errorf("the virtual machine of sandbox %s does not run: %w", s.opts.ID, errdefs.ErrUnavailable)
	}
	s.mu.Lock()
	g := s.guest
	s.mu.Unlock()
	pids, err := s.hostProcesses()
	if err != nil {
		return nil, fmt.Errorf("looking up the processes of sandbox %s: %w", s.opts.ID, err)
	}
	used, err := usageOf(pids)
	if err != nil {
		return nil, fmt.Errorf("measuring sandbox %s: %w", s.opts.ID, err)
	}
	m := used.metrics()
	inside, err := g.agent.stats(ctx, &agentv1.ContainerRef{})
	if err != nil {
		s.log.WithError(err).Warn("the guest does not tell what its network has carried")
		return m, nil
	}
	m.Network = inside.Network
	return m, nil
}

// hostProcesses are this process and those that were written down and still live.
func (s *Sandbox) hostProcesses() ([]int, error) {
	data, err := os.ReadFile(filepath.Join(s.opts.Dir, record.PidsFile))
	if err != nil {
		return nil, err
	}
	pids := []int{os.Getpid()}
	for _, r := range record.Parse(data) {
		if r.Lives() {
			pids = append(pids, r.PID)
		}
	}
	return pids, nil
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
