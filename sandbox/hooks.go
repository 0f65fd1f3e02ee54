package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/virtcontainers"
)

// hookOutput bounds what of a hook's output is put in an error, in bytes.
const hookOutput = 2 << 10

// runHooks runs OCI hooks on the host, one after another, each with the
// container's state on its standard input. The first that fails ends it.
func (c *Container) runHooks(ctx context.Context, hooks []specs.Hook, status specs.ContainerState) error {
	for _, h := range hooks {
		if err := c.runHook(ctx, h, status); err != nil {
			return err
		}
	}
	return nil
}

// runStopHooks runs the poststop hooks. One that fails changes nothing for the
// others.
func (c *Container) runStopHooks(ctx context.Context) {
	for _, h := range c.plan.Hooks.Stopped {
		if err := c.runHook(ctx, h, specs.StateStopped); err != nil {
			c.log.WithError(err).Warn("a poststop hook failed")
		}
	}
}

// runStartedHooks runs the poststart hooks. If one fails the container is killed.
func (c *Container) runStartedHooks(ctx context.Context) error {
	err := c.runHooks(ctx, c.plan.Hooks.Started, specs.StateRunning)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("poststart: %w", err)
	kill := c.init.signal(context.WithoutCancel(ctx), uint32(unix.SIGKILL), true)
	if kill != nil && !errdefs.IsNotFound(kill) {
		err = errors.Join(err, kill)
	}
	return err
}

func (c *Container) runHook(ctx context.Context, h specs.Hook, status specs.ContainerState) error {
	state, err := json.Marshal(specs.State{
		Version:     c.spec.Version,
		ID:          c.id,
		Status:      status,
		Pid:         c.guest.pid(),
		Bundle:      c.bundle,
		Annotations: c.spec.Annotations,
	})
	if err != nil {
		return fmt.Errorf("encoding the state for hooks: %w", err)
	}
	if err := runHook(ctx, h, state); err != nil {
		return fmt.Errorf("container %s: hook %s: %w", c.id, h.Path, err)
	}
	return nil
}

func runHook(ctx context.Context, h specs.Hook, state []byte) error {
	timeout := virtcontainers.DefaultHookTimeout
	if h.Timeout != nil {
		timeout = time.Duration(*h.Timeout) * time.Second
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done after %s", timeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...)
	cmd.Stdin = bytes.NewReader(state)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	// A child of the hook that keeps its output open must not keep us.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("%w: %s", err, printable(out.String(), hookOutput))
}
