package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd/errdefs"
)

// privatePIDs says whether the container has a PID namespace of its own.
func (c *container) privatePIDs() bool { return c.namespaces.IsPrivate(configs.NEWPID) }

// pause freezes all processes of the container.
func (c *container) pause(ctx context.Context) error {
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	if state, _ := c.init.current(); state == stateStopped {
		return stateError("pause", c.id, libcontainer.ErrNotRunning)
	}
	if err := c.jail.pause(); err != nil {
		return stateError("pause", c.id, err)
	}
	c.paused = true
	return nil
}

// resume thaws the container.
func (c *container) resume(ctx context.Context) error {
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	if err := c.jail.resume(); err != nil {
		return stateError("resume", c.id, err)
	}
	c.paused = false
	return nil
}

func stateError(verb, id string, err error) error {
	if errors.Is(err, libcontainer.ErrNotRunning) || errors.Is(err, libcontainer.ErrNotPaused) {
		return fmt.Errorf("cannot %s container %s: %v: %w", verb, id, err, errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("%s of container %s: %w", verb, id, err)
}

// update changes the limits that update, an OCI LinuxResources in JSON, names.
// The others stay. When it fails the old limits are set again.
func (c *container) update(ctx context.Context, update []byte) error {
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	if state, _ := c.init.current(); state == stateStopped {
		return fmt.Errorf("cannot update container %s: it is stopped: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	merged, err := mergeResources(c.resources, update)
	if err == nil {
		err = c.machine.confine(merged)
	}
	if err != nil {
		return err
	}
	if err := c.setResources(merged); err != nil {
		return errors.Join(fmt.Errorf("updating container %s: %w", c.id, err), c.setResources(c.resources))
	}
	c.resources = merged
	return nil
}

// mergeResources returns old with what update has set.
func mergeResources(old *specs.LinuxResources, update []byte) (*specs.LinuxResources, error) {
	data, err := json.Marshal(old)
	if err != nil {
		return nil, fmt.Errorf("encoding the resources: %w", err)
	}
	merged := &specs.LinuxResources{}
	if err := json.Unmarshal(data, merged); err != nil {
		return nil, fmt.Errorf("decoding the resources: %w", err)
	}
	return merged, decodeJSON("the OCI resources", update, merged)
}

func (c *container) setResources(r *specs.LinuxResources) error {
	resources, err := cgroupResources(r)
	if err != nil {
		return err
	}
	// Not libcontainer's own manager: it would remember to skip the devices,
	// and start no process any more.
	m, err := fs2.NewManager(&cgroups.Cgroup{Resources: resources}, string(c.cgroup))
	if err != nil {
		return err
	}
	return m.Set(resources)
}
