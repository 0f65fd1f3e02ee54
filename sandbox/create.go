package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/virtcontainers"
)

// rootfsDir is where in the bundle containerd's root filesystem is mounted.
const rootfsDir = "rootfs"

// ContainerOptions say what a container is made of.
type ContainerOptions struct {
	// ID is containerd's; Bundle is the absolute path of its bundle.
	ID, Bundle string
	// Rootfs are containerd's mounts of the root filesystem; none if the bundle
	// already has it.
	Rootfs []*types.Mount
	// Stdio says which streams the init process has.
	Stdio
}

// CreateContainer makes a container whose init process waits to be started. The
// first container boots the machine unless Boot has, in a size that holds its
// limits, and in the network namespace that its configuration names. For a later
// one the machine gets the memory and processors that the limits need together. When it
// fails nothing is left of the container; a machine that booted stays for the
// next, until Stop. The machine of a container that is in no pod ends with it: then
// the error is an errdefs.ErrFailedPrecondition.
func (s *Sandbox) CreateContainer(ctx context.Context, o ContainerOptions) (*Container, error) {
	c, err := s.read(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := s.reserve(c); err != nil {
		c.rootDisks.close()
		return nil, err
	}
	if err := s.create(ctx, c, o); err != nil {
		s.forget(c)
		c.guest.refit(context.WithoutCancel(ctx))
		return nil, err
	}
	s.mu.Lock()
	c.created = true
	s.mu.Unlock()
	c.buildMissing()
	return c, nil
}

// read reads a container's bundle.
func (s *Sandbox) read(ctx context.Context, o ContainerOptions) (*Container, error) {
	if err := identifiers.Validate(o.ID); err != nil {
		return nil, fmt.Errorf("container id: %w", err)
	}
	spec, err := readSpec(o.Bundle)
	if err != nil {
		return nil, err
	}
	if err := checkGuestHooks(spec); err != nil {
		return nil, err
	}
	c := &Container{
		id:      o.ID,
		place:   fmt.Sprintf("%s.%d", o.ID, s.placesMade.Add(1)),
		bundle:  o.Bundle,
		sandbox: s,
		spec:    spec,
		log:     s.log.WithField("container", o.ID),
		execs:   make(map[string]*Process),
		// Here and not where the plan is made: a file system may be slow to answer,
		// and that is done under the sandbox's lock.
		sources: inspectSources(virtcontainers.BindSources(spec, o.Bundle)),
	}
	c.rootDisks, c.missing = s.openRootDisks(ctx, c, o.Rootfs)
	c.deleting, c.beginDeleting = context.WithCancel(context.Background())
	return c, nil
}

// makePlan plans the container; first is set for the one that brings the machine.
// It touches nothing on the host.
func (c *Container) makePlan(first bool) error {
	var err error
	c.plan, err = virtcontainers.NewPlan(c.spec, virtcontainers.Placement{
		ID:            c.id,
		Bundle:        c.bundle,
		GuestDir:      guestDir(c.place),
		Role:          virtcontainers.RoleOf(c.spec.Annotations),
		Sandbox:       c.sandbox.opts.ID,
		First:         first,
		NoPause:       c.sandbox.booted,
		GuestSHM:      guestSHM,
		Etc:           c.sandbox.etc,
		BlockDevices:  c.sources.blockDevices,
		GuestRootfs:   c.guestRootfs(),
		GuestVolumes:  path.Join(guestVolumes, c.id),
		Sources:       c.sources.kinds,
		MemoryVolumes: c.sources.memory,
	})
	if err != nil {
		return err
	}
	for _, note := range c.plan.Notes {
		c.log.Warn(note)
	}
	return nil
}

// create makes the container's files while the machine boots, and the container
// once both are there.
func (s *Sandbox) create(ctx context.Context, c *Container, o ContainerOptions) (err error) {
	var hostReady bool
	defer func() {
		if err == nil {
			return
		}
		c.releaseDisks(context.WithoutCancel(ctx))
		c.releaseRootDisks()
		if hostReady {
			c.afterDelete(context.WithoutCancel(ctx))
		}
	}()
	parts, partsCtx := errgroup.WithContext(ctx)
	parts.Go(func() error {
		if err := c.makeFiles(o.Rootfs); err != nil {
			return err
		}
		hostReady = true
		return c.hooksOnCreate(partsCtx)
	})
	parts.Go(func() error { return c.guest.wait(partsCtx, c.guest.ready) })
	parts.Go(func() error { return c.guest.orFailure(partsCtx, c.attachRootDisks(partsCtx)) })
	parts.Go(func() error { return c.guest.orFailure(partsCtx, c.attachDisks(partsCtx)) })
	if err := parts.Wait(); err != nil {
		return err
	}
	return c.createInGuest(ctx, o.Stdio)
}

// makeFiles mounts what the guest will see. When it fails nothing is mounted.
func (c *Container) makeFiles(rootfs []*types.Mount) error {
	target := filepath.Join(c.bundle, rootfsDir)
	if c.rootDisks != nil {
		rootfs = nil
	}
	if err := mountRootfs(rootfs, target); err != nil {
		return err
	}
	if err := c.sandbox.share.add(c.place, c.plan.Mounts); err != nil {
		c.undoRootfs(target)
		return err
	}
	var err error
	c.sockets, c.socketMessages, err = c.sandbox.sockets.add(c.deleting, c.plan.Sockets)
	if err != nil {
		if undo := c.sandbox.share.drop(c.place); undo != nil {
			c.log.WithError(undo).Error("undoing a container's mounts")
		}
		c.undoRootfs(target)
		return err
	}
	return nil
}

func (c *Container) undoRootfs(target string) {
	if err := unmountRootfs(target); err != nil {
		c.log.WithError(err).Error("undoing a container's mounts")
	}
}

// hooksOnCreate runs the hooks that need the sandbox's process, as soon as it is
// there: the guest boots on meanwhile.
func (c *Container) hooksOnCreate(ctx context.Context) error {
	if len(c.plan.Hooks.Created) == 0 {
		return nil
	}
	if err := c.guest.wait(ctx, c.guest.started); err != nil {
		return err
	}
	return c.runHooks(ctx, c.plan.Hooks.Created, specs.StateCreating)
}

func (c *Container) createInGuest(ctx context.Context, stdio Stdio) error {
	spec, err := json.Marshal(c.plan.Guest)
	if err != nil {
		return fmt.Errorf("encoding the guest's configuration: %w", err)
	}
	agent, err := c.guest.call()
	if err != nil {
		return err
	}
	if err := c.guest.fit(ctx); err != nil {
		return err
	}
	if err := c.guest.network.sync(ctx); err != nil {
		return err
	}
	// Before the streams are opened, for which a guest does not wait long.
	copies, err := c.copyVolumes(ctx, agent)
	if err != nil {
		return fmt.Errorf("creating container %s: %w", c.id, err)
	}
	c.init, err = c.newProcess(ctx, "", stdio)
	if err != nil {
		closeCopies(copies)
		return err
	}
	request := &agentv1.CreateContainerRequest{
		ContainerId:   c.id,
		Spec:          spec,
		Streams:       c.init.streams.request(stdio, c.plan.Guest.Process),
		Disks:         c.guestDisks(),
		Sockets:       c.socketMessages,
		Rootfs:        c.rootfsMessage(),
		MemoryVolumes: memoryMessages(c.plan.Memory),
	}
	if err := agent.createContainer(ctx, request); err != nil {
		closeCopies(copies)
		return fmt.Errorf("creating container %s: %w", c.id, err)
	}
	c.followVolumes(copies)
	c.sandbox.tasks.Go(c.init.watch)
	return nil
}

// ExecOptions say what an exec is.
type ExecOptions struct {
	// ID is the exec's, of its container.
	ID string
	// Spec is the process to run.
	Spec *specs.Process
	// Stdio says which streams it has.
	Stdio
}

// Exec makes a process that waits to be started. errdefs.ErrAlreadyExists if the
// id is taken, errdefs.ErrFailedPrecondition if the container is not running.
func (c *Container) Exec(ctx context.Context, o ExecOptions) (*Process, error) {
	if err := identifiers.Validate(o.ID); err != nil {
		return nil, fmt.Errorf("exec id: %w", err)
	}
	if o.Spec == nil || len(o.Spec.Args) == 0 {
		return nil, fmt.Errorf("exec %s has no process.args: %w", o.ID, errdefs.ErrInvalidArgument)
	}
	if err := c.init.mustBe(Running); err != nil {
		return nil, err
	}
	agent, err := c.guest.call()
	if err != nil {
		return nil, err
	}
	process := *o.Spec
	process.ApparmorProfile, process.SelinuxLabel = "", ""
	spec, err := json.Marshal(process)
	if err != nil {
		return nil, fmt.Errorf("encoding the process: %w", err)
	}
	p, err := c.addExec(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := agent.createProcess(ctx, &agentv1.CreateProcessRequest{
		ContainerId: c.id,
		ExecId:      o.ID,
		Process:     spec,
		Streams:     p.streams.request(o.Stdio, &process),
	}); err != nil {
		c.removeExec(p)
		return nil, fmt.Errorf("creating exec %s of container %s: %w", o.ID, c.id, err)
	}
	return p, nil
}

func (c *Container) addExec(ctx context.Context, o ExecOptions) (*Process, error) {
	p, err := c.newProcess(ctx, o.ID, o.Stdio)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	_, taken := c.execs[o.ID]
	if !taken {
		c.execs[o.ID] = p
	}
	c.mu.Unlock()
	if taken {
		p.streams.close()
		return nil, fmt.Errorf("exec %s of container %s: %w", o.ID, c.id, errdefs.ErrAlreadyExists)
	}
	return p, nil
}

func (c *Container) removeExec(p *Process) {
	p.streams.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[p.id] == p {
		delete(c.execs, p.id)
	}
}
