package sandbox

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/virtcontainers"
)

// growTimeout bounds how long a guest may take to put more memory and processors to
// use: it may still be loading its modules.
const growTimeout = 30 * time.Second

// need is how large the machine must be for the containers that the sandbox has,
// and those in more. The lock is the caller's.
func (s *Sandbox) need(g *guest, more ...*specs.LinuxResources) (virtcontainers.Size, error) {
	for _, c := range s.containers {
		more = append(more, c.limits)
	}
	base := virtcontainers.Size{MemoryMiB: g.size.MemoryMiB, VCPUs: g.leastCPUs}
	size, err := virtcontainers.SizeFor(base, virtcontainers.Size(s.opts.Config.Limits()), more...)
	size.VCPUs = min(size.VCPUs, g.mostCPUs)
	return size, err
}

// fit gives the machine the memory and the processors that its containers' limits need.
// When they need more than it has, it waits until the guest has it; when they need less
// memory, the guest gives back what it can, which nobody waits for. Processors it keeps:
// more containers may be about to come. The guest must be ready.
func (g *guest) fit(ctx context.Context) error { return g.resize(ctx, false) }

// resize is fit, which takes processors away too if fewer is set.
func (g *guest) resize(ctx context.Context, fewer bool) error {
	ctx, cancel := context.WithTimeout(ctx, growTimeout)
	defer cancel()
	select {
	case g.fitting <- struct{}{}:
		defer func() { <-g.fitting }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for another resize of the virtual machine: %w", ctx.Err())
	}
	g.sandbox.mu.Lock()
	size, err := g.sandbox.need(g)
	if len(g.sandbox.containers) == 0 {
		fewer = false // a machine that runs nothing is about to end
	}
	g.sandbox.mu.Unlock()
	if err != nil {
		return err
	}
	reached, err := g.machine.ResizeMemory(ctx, size.MemoryMiB)
	if err != nil {
		return fmt.Errorf("making room for the containers' memory limits: %w", err)
	}
	if size.VCPUs > g.cpus || fewer {
		g.setCPUs(ctx, size.VCPUs)
	}
	g.sandbox.log.WithField("asked_mib", size.MemoryMiB).WithField("memory_mib", reached).WithField("vcpus", g.cpus).
		Debug("the virtual machine fits its containers")
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
	if err := g.resize(ctx, true); err != nil && !errdefs.IsUnavailable(err) {
		g.sandbox.log.WithError(err).Warn("taking memory and processors back from the virtual machine")
	}
}

// setLimits notes the limits that a container is to have, and returns those that it
// had. Limits that the machine cannot hold beside those of the others are refused.
func (s *Sandbox) setLimits(c *Container, r *specs.LinuxResources) (before *specs.LinuxResources, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before = c.limits
	c.limits = virtcontainers.ChangedLimits(before, r)
	if _, err := s.need(c.guest); err != nil {
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
