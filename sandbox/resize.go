package sandbox

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/virtcontainers"
)

// growTimeout bounds how long a guest may take to put more memory to use: it may
// still be loading its modules.
const growTimeout = 30 * time.Second

// need is how large the machine must be for the containers that the sandbox has,
// and those in more. The lock is the caller's.
func (s *Sandbox) need(base virtcontainers.Size, more ...*specs.LinuxResources) (virtcontainers.Size, error) {
	for _, c := range s.containers {
		more = append(more, c.limits)
	}
	return virtcontainers.SizeFor(base, virtcontainers.Size(s.opts.Config.Limits()), more...)
}

// fit gives the machine the memory that its containers' limits need. When they need
// more than it has, it waits until the guest has it; when they need less, the guest
// gives back what it can, which nobody waits for. The guest must be ready.
func (g *guest) fit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, growTimeout)
	defer cancel()
	select {
	case g.fitting <- struct{}{}:
		defer func() { <-g.fitting }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for another resize of the virtual machine: %w", ctx.Err())
	}
	g.sandbox.mu.Lock()
	size, err := g.sandbox.need(g.size)
	g.sandbox.mu.Unlock()
	if err != nil {
		return err
	}
	reached, err := g.machine.ResizeMemory(ctx, size.MemoryMiB)
	if err != nil {
		return fmt.Errorf("making room for the containers' memory limits: %w", err)
	}
	g.sandbox.log.WithField("asked_mib", size.MemoryMiB).WithField("memory_mib", reached).Debug("the virtual machine fits its containers")
	return nil
}

// refit is fit after a container is gone or its limits are lower.
func (g *guest) refit(ctx context.Context) {
	select {
	case <-g.ready:
	default:
		return // what boots is sized by what brought it
	}
	if g.err != nil {
		return // nothing has booted
	}
	if _, err := g.call(); err != nil {
		return
	}
	if err := g.fit(ctx); err != nil && !errdefs.IsUnavailable(err) {
		g.sandbox.log.WithError(err).Warn("taking memory back from the virtual machine")
	}
}

// setLimits notes the limits that a container is to have, and returns those that it
// had. Limits that the machine cannot hold beside those of the others are refused.
func (s *Sandbox) setLimits(c *Container, r *specs.LinuxResources) (before *specs.LinuxResources, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before = c.limits
	c.limits = virtcontainers.ChangedLimits(before, r)
	if _, err := s.need(c.guest.size); err != nil {
		c.limits = before
		return nil, err
	}
	return before, nil
}

// undoLimits takes back what setLimits did.
func (s *Sandbox) undoLimits(c *Container, before *specs.LinuxResources) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.limits = before
}
