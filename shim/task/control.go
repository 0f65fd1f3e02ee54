package task

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"github.com/hyperhq/hyper/shim/stdio"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxSignal is Linux's last real-time signal.
const maxSignal = 64

// Status is what State tells of a task or an exec.
type Status struct {
	Bundle string
	PID    uint32
	State  State
	Stdio  stdio.Config
	Exit   Exit // once State is Stopped
}

// State tells how a task or an exec is.
func (s *Service) State(id, execID string) (Status, error) {
	c, p, err := s.process(id, execID)
	if err != nil {
		return Status{}, err
	}
	st := Status{Bundle: c.bundle, PID: c.pid, State: p.state(), Stdio: p.config}
	if st.State == Stopped {
		p.mu.Lock()
		st.Exit = p.exit
		p.mu.Unlock()
	}
	return st, nil
}

// Wait returns how a task or an exec ended, once it has and its output is
// written.
func (s *Service) Wait(ctx context.Context, id, execID string) (Exit, error) {
	_, p, err := s.process(id, execID)
	if err != nil {
		return Exit{}, err
	}
	return p.wait(ctx)
}

// Kill sends a signal to a process or, with all, to every process of its
// container. It fails with ErrNotFound when the process is gone.
func (s *Service) Kill(ctx context.Context, id, execID string, signal uint32, all bool) error {
	c, p, err := s.process(id, execID)
	if err != nil {
		return err
	}
	if signal > maxSignal {
		return fmt.Errorf("signal %s of %s: there is no signal %d: %w", p.name(), id, signal, errdefs.ErrInvalidArgument)
	}
	if !p.beginSignal() {
		return fmt.Errorf("signal %s of %s: it has stopped: %w", p.name(), id, errdefs.ErrNotFound)
	}
	defer p.endSignal()
	switch {
	case execID != "" && p.state() == Created:
		return fmt.Errorf("signal %s of %s: it has not been started: %w", p.name(), id, errdefs.ErrFailedPrecondition)
	case all && execID == "":
		err = c.guest.Signal(ctx, signal)
	default:
		err = p.guest.Signal(ctx, signal)
	}
	if (err == nil && signal == uint32(unix.SIGKILL) || errdefs.IsNotFound(err)) && p.beginDeath() {
		s.work.Go(p.awaitDeath)
	}
	if err != nil {
		return fmt.Errorf("signal %s of %s: %w", p.name(), id, err)
	}
	return nil
}

// Resize sets the size of a process's terminal, in characters.
func (s *Service) Resize(ctx context.Context, id, execID string, width, height uint32) error {
	_, p, err := s.process(id, execID)
	if err != nil {
		return err
	}
	if !p.config.Terminal {
		return fmt.Errorf("resize the terminal of %s of %s: it has none: %w", p.name(), id, errdefs.ErrFailedPrecondition)
	}
	if err := p.guest.Resize(ctx, width, height); err != nil {
		return fmt.Errorf("resize the terminal of %s of %s: %w", p.name(), id, err)
	}
	return nil
}

// CloseStdin lets a process see the end of its stdin when all writers have
// gone. It may be called before the start, and again.
func (s *Service) CloseStdin(id, execID string) error {
	_, p, err := s.process(id, execID)
	if err != nil {
		return err
	}
	return p.stdio.CloseStdin()
}

// Pause stops all processes of a task until Resume.
func (s *Service) Pause(ctx context.Context, id string) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	if err := c.guest.Pause(ctx); err != nil {
		return fmt.Errorf("pause task %s: %w", id, err)
	}
	s.o.Events.Publish(topicPaused, &events.TaskPaused{ContainerID: id})
	return nil
}

// Resume lets the processes of a paused task go on.
func (s *Service) Resume(ctx context.Context, id string) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	if err := c.guest.Resume(ctx); err != nil {
		return fmt.Errorf("resume task %s: %w", id, err)
	}
	s.o.Events.Publish(topicResumed, &events.TaskResumed{ContainerID: id})
	return nil
}

// Update changes a task's limits to those of an OCI linux.resources object in
// JSON.
func (s *Service) Update(ctx context.Context, id string, resources []byte) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	var r specs.LinuxResources
	if err := json.Unmarshal(resources, &r); err != nil {
		return fmt.Errorf("update task %s: these are no OCI resources (%w): %w", id, err, errdefs.ErrInvalidArgument)
	}
	if err := c.guest.Update(ctx, &r); err != nil {
		return fmt.Errorf("update task %s: %w", id, err)
	}
	return nil
}

// Stats returns what a task uses.
func (s *Service) Stats(ctx context.Context, id string) (*stats.Metrics, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	m, err := c.guest.Stats(ctx)
	if err != nil {
		return nil, fmt.Errorf("statistics of task %s: %w", id, err)
	}
	return m, nil
}

// Pids lists a task's processes by their ids in the guest. One whose end is not told yet,
// for the sake of its output, stands for itself by the task's own id: containerd deletes a
// task of no processes when it begins, and forgets it also where it may not.
func (s *Service) Pids(ctx context.Context, id string) ([]ProcessInfo, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	if c.init.state() == Stopped {
		return nil, nil
	}
	ps, err := c.guest.Pids(ctx)
	if err != nil {
		return nil, fmt.Errorf("processes of task %s: %w", id, err)
	}
	if len(ps) == 0 && c.init.state() != Stopped {
		return []ProcessInfo{{PID: c.pid}}, nil
	}
	return ps, nil
}

// PID is a live host process that stands for the task, 0 if there is no such
// task.
func (s *Service) PID(id string) uint32 {
	c, err := s.container(id)
	if err != nil {
		return 0
	}
	return c.pid
}
