package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/containerd/api/events"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/hyperhq/hyper/shim/stdio"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Create makes a task. Its id must be new (ErrAlreadyExists); the first one
// boots the machine. It returns a host process that stands for the task.
func (s *Service) Create(ctx context.Context, r *api.CreateTaskRequest) (pid uint32, err error) {
	if r.Checkpoint != "" {
		return 0, fmt.Errorf("create task %s from a checkpoint: %w", r.ID, errdefs.ErrNotImplemented)
	}
	if r.ID == "" || r.Bundle == "" {
		return 0, fmt.Errorf("create task %q: id and bundle must be given: %w", r.ID, errdefs.ErrInvalidArgument)
	}
	ctx, made, err := s.reserve(ctx, r.ID)
	if err != nil {
		return 0, err
	}
	c, err := s.create(ctx, r)
	if err != nil {
		made(nil)
		return 0, fmt.Errorf("create task %s: %w", r.ID, err)
	}
	s.o.Events.Publish(topicCreate, &events.TaskCreate{
		ContainerID: r.ID,
		Bundle:      r.Bundle,
		Rootfs:      r.Rootfs,
		IO:          &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		Pid:         c.pid,
	})
	made(c)
	s.work.Go(func() { s.watchInit(c) })
	return c.pid, nil
}

func (s *Service) create(ctx context.Context, r *api.CreateTaskRequest) (*container, error) {
	config := stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
	io, err := s.o.Stdio.Open(ctx, r.ID, config)
	if err != nil {
		return nil, err
	}
	sandbox, err := s.openSandbox(ctx, r.Bundle)
	if err != nil {
		return nil, errors.Join(err, io.Close())
	}
	guest, err := sandbox.CreateContainer(ctx, ContainerOptions{
		ID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Streams: streams(config),
	})
	if err != nil {
		return nil, errors.Join(err, io.Close())
	}
	p := newProcess(s.ctx, "", config, io, guest.Init())
	io.Attach(p.guest.Stdin(), p.guest.Stdout(), p.guest.Stderr())
	return &container{
		id: r.ID, bundle: r.Bundle, pid: uint32(sandbox.PID()),
		guest: guest, init: p, execs: make(map[string]*process),
	}, nil
}

func streams(c stdio.Config) Streams {
	stdin, stdout, stderr := c.Streams()
	return Streams{Terminal: c.Terminal, Stdin: stdin, Stdout: stdout, Stderr: stderr}
}

// watchInit sees a container's first process to its end.
func (s *Service) watchInit(c *container) {
	e, _ := c.init.awaitExit()
	execs := c.stop()
	c.init.drain(e)
	awaitExecs(execs)
	for _, p := range execs {
		p.abandon() // those that were never started, nobody else will end
	}
	c.init.finish(e, func() { s.publishExit(c, c.id, e) })
}

// watchExec sees an exec to its end; one that has not run has no exit.
func (s *Service) watchExec(c *container, p *process) {
	e, started := p.awaitExit()
	if !started {
		p.finish(e, func() {})
		return
	}
	p.drain(e)
	p.finish(e, func() { s.publishExit(c, p.id, e) })
}

func (s *Service) publishExit(c *container, id string, e Exit) {
	s.o.Events.Publish(topicExit, &events.TaskExit{
		ContainerID: c.id, ID: id, Pid: c.pid,
		ExitStatus: e.Status, ExitedAt: timestamppb.New(e.At),
	})
}

// Exec adds a process to a task, to be started. Its id must be new
// (ErrAlreadyExists) and the task not stopped (ErrFailedPrecondition).
func (s *Service) Exec(ctx context.Context, r *api.ExecProcessRequest) error {
	c, err := s.container(r.ID)
	if err != nil {
		return err
	}
	var spec specs.Process
	if r.ExecID == "" || r.Spec == nil {
		return fmt.Errorf("exec in task %s: an id and a process must be given: %w", r.ID, errdefs.ErrInvalidArgument)
	}
	if err := json.Unmarshal(r.Spec.Value, &spec); err != nil {
		return fmt.Errorf("exec %q in task %s: the process is no OCI process (%w): %w", r.ExecID, r.ID, err, errdefs.ErrInvalidArgument)
	}
	if err := c.reserve(r.ExecID); err != nil {
		return err
	}
	config := stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
	p, err := s.exec(ctx, c, r.ExecID, &spec, config)
	if err != nil {
		c.release(r.ExecID)
		return fmt.Errorf("exec %q in task %s: %w", r.ExecID, r.ID, err)
	}
	if !c.add(p) {
		return errors.Join(fmt.Errorf("exec %q in task %s: it has been deleted: %w", r.ExecID, r.ID, errdefs.ErrNotFound), p.stdio.Close())
	}
	s.o.Events.Publish(topicExecAdded, &events.TaskExecAdded{ContainerID: c.id, ExecID: p.id})
	s.work.Go(func() { s.watchExec(c, p) })
	return nil
}

func (s *Service) exec(ctx context.Context, c *container, id string, spec *specs.Process, config stdio.Config) (*process, error) {
	io, err := s.o.Stdio.Open(ctx, id, config)
	if err != nil {
		return nil, err
	}
	guest, err := c.guest.Exec(ctx, id, spec, streams(config))
	if err != nil {
		return nil, errors.Join(err, io.Close())
	}
	io.Attach(guest.Stdin(), guest.Stdout(), guest.Stderr())
	return newProcess(s.ctx, id, config, io, guest), nil
}

// Start starts a task, or an exec of it.
func (s *Service) Start(ctx context.Context, id, execID string) (pid uint32, err error) {
	c, p, err := s.process(id, execID)
	if err != nil {
		return 0, err
	}
	err = p.start(ctx, func() {
		if execID == "" {
			s.o.Events.Publish(topicStart, &events.TaskStart{ContainerID: c.id, Pid: c.pid})
			return
		}
		s.o.Events.Publish(topicExecStarted, &events.TaskExecStarted{ContainerID: c.id, ExecID: execID, Pid: c.pid})
	})
	if err != nil {
		return 0, fmt.Errorf("task %s: %w", id, err)
	}
	return c.pid, nil
}

// Delete removes a task, with all its execs, or one exec. It fails with
// ErrFailedPrecondition while that runs.
func (s *Service) Delete(ctx context.Context, id, execID string) (Exit, uint32, error) {
	c, p, err := s.process(id, execID)
	if err != nil {
		return Exit{}, 0, err
	}
	if err := p.beginDelete(); err != nil {
		return Exit{}, 0, fmt.Errorf("task %s: %w", id, err)
	}
	if err := p.guest.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		p.undoDelete()
		return Exit{}, 0, fmt.Errorf("delete %s of %s: %w", p.name(), id, err)
	}
	exit, err := s.bury(c, p)
	if err != nil {
		return Exit{}, 0, fmt.Errorf("delete %s of %s: %w", p.name(), id, err)
	}
	return exit, c.pid, nil
}

// bury removes what is left of a process that is no more in the guest: for an
// init, the container.
func (s *Service) bury(c *container, p *process) (Exit, error) {
	rest := []*process{p}
	if p == c.init {
		rest = append(c.close(), p)
	}
	for _, p := range rest {
		p.abandon()
		p.rush()
	}
	// Nothing holds back the exit now but the exits of execs.
	ctx, cancel := context.WithTimeout(s.ctx, execsExit+2*execsLate)
	defer cancel()
	exit, err := p.wait(ctx)
	for _, p := range rest {
		err = errors.Join(err, p.stdio.Close())
	}
	if p != c.init {
		c.release(p.id)
		return exit, err
	}
	s.o.Events.Publish(topicDelete, &events.TaskDelete{
		ContainerID: c.id, Pid: c.pid, ExitStatus: exit.Status, ExitedAt: timestamppb.New(exit.At),
	})
	s.release(c.id)
	return exit, err
}
