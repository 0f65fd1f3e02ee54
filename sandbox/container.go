package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/virtcontainers"
)

// maxDeletions is how often a guest may fail to delete a container.
const maxDeletions = 3

// Container is a container in the sandbox's guest.
type Container struct {
	id, bundle string
	// place is the name of its directory in the share. No other container of the
	// sandbox ever has it, also if it has the same id: for a second the guest would
	// take the new directory for the one that it knows, and then unmount what it has
	// mounted there.
	place   string
	sandbox *Sandbox
	guest   *guest
	plan    *virtcontainers.Plan
	spec    *specs.Spec // as the bundle has it
	log     *log.Entry
	// sources is what the bundle's binds name; sockets are the ids of those of
	// them that are unix sockets, and socketMessages what the guest is told.
	sources        sources
	sockets        []uint64
	socketMessages []*agentv1.Socket
	// rootDisks is nil if the root filesystem comes by the share, and missing are the
	// layers then of which an image should be built.
	rootDisks *rootDisks
	missing   []string
	init      *Process
	// limits are those that size the machine, as they are now. They are guarded by
	// the sandbox's lock.
	limits  *specs.LinuxResources
	lastOOM time.Time // is forwardEvents' own
	// deletions counts those that the guest has failed.
	deletions atomic.Int32
	// created is guarded by the sandbox's lock; init is set before it is.
	created bool
	// deleting ends when the guest is asked to forget the container.
	deleting      context.Context
	beginDeleting context.CancelFunc

	mu     sync.Mutex
	paused bool
	execs  map[string]*Process
	disks  []usedDisk // of the machine
}

// ID is the container's id, Bundle its bundle's path on the host.
func (c *Container) ID() string     { return c.id }
func (c *Container) Bundle() string { return c.bundle }

// Process returns an exec by its id, or the container's init for "". One that
// is not there is an errdefs.ErrNotFound.
func (c *Container) Process(execID string) (*Process, error) {
	if execID == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.execs[execID]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("exec %s of container %s: %w", execID, c.id, errdefs.ErrNotFound)
}

// processes are the container's init and its execs.
func (c *Container) processes() []*Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := []*Process{c.init}
	for _, p := range c.execs {
		list = append(list, p)
	}
	return list
}

// isLast says whether no other container would lose the machine: none runs beside this one,
// or this one is the pod.
func (c *Container) isLast() bool {
	if virtcontainers.RoleOf(c.spec.Annotations) == virtcontainers.PodSandbox {
		return true
	}
	return !slices.ContainsFunc(c.sandbox.made(), func(other *Container) bool {
		return other != c && other.init.State() == Running &&
			virtcontainers.RoleOf(other.spec.Annotations) != virtcontainers.PodSandbox
	})
}

func (c *Container) ref() *agentv1.ContainerRef { return &agentv1.ContainerRef{ContainerId: c.id} }

// Pause freezes all processes of the container, and saves what it has written to its
// root filesystem. When it fails the container runs on.
// errdefs.ErrFailedPrecondition if it is not running.
func (c *Container) Pause(ctx context.Context) error {
	if err := c.init.mustBe(Running); err != nil {
		return err
	}
	agent, err := c.guest.call()
	if err != nil {
		return err
	}
	if err := agent.pause(ctx, c.ref()); err != nil {
		return fmt.Errorf("pausing container %s: %w", c.id, err)
	}
	c.setPaused(true)
	// Whoever wants to look at what it has written pauses it for that.
	if err := c.saveChanges(ctx); err != nil {
		return errors.Join(err, c.Resume(context.WithoutCancel(ctx)))
	}
	return nil
}

// Resume lets a paused container go on.
// errdefs.ErrFailedPrecondition if it is not paused.
func (c *Container) Resume(ctx context.Context) error {
	if err := c.init.mustBe(Paused); err != nil {
		return err
	}
	agent, err := c.guest.call()
	if err != nil {
		return err
	}
	if err := agent.resume(ctx, c.ref()); err != nil {
		return fmt.Errorf("resuming container %s: %w", c.id, err)
	}
	c.setPaused(false)
	return nil
}

func (c *Container) setPaused(paused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = paused
}

func (c *Container) isPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused
}

// Update changes the container's limits in the guest, and before that the memory and
// the processors of the machine, if they need more. A memory limit that the machine cannot hold beside
// those of its other containers is an errdefs.ErrInvalidArgument. When it fails the
// limits are as before.
func (c *Container) Update(ctx context.Context, r *specs.LinuxResources) error {
	agent, err := c.guest.call()
	if err != nil {
		return err
	}
	before, err := c.sandbox.setLimits(c, r)
	if err != nil {
		return fmt.Errorf("updating container %s: %w", c.id, err)
	}
	// Afterwards, because then less may do.
	defer c.guest.refit(context.WithoutCancel(ctx))
	if err := c.update(ctx, agent, r); err != nil {
		c.sandbox.undoLimits(c, before)
		return fmt.Errorf("updating container %s: %w", c.id, err)
	}
	return nil
}

func (c *Container) update(ctx context.Context, agent *agentClient, r *specs.LinuxResources) error {
	if err := c.guest.fit(ctx); err != nil {
		return err
	}
	notes, err := virtcontainers.GuestResources(r, virtcontainers.RoleOf(c.spec.Annotations))
	if err != nil {
		return err
	}
	for _, note := range notes {
		c.log.Warn(note)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding the limits: %w", err)
	}
	return agent.update(ctx, &agentv1.UpdateContainerRequest{ContainerId: c.id, Resources: data})
}

// Stats are the numbers of the container's cgroup in the guest. Those of the container
// that stands for a pod are the sandbox's: see Metrics.
func (c *Container) Stats(ctx context.Context) (*stats.Metrics, error) {
	if virtcontainers.RoleOf(c.spec.Annotations) == virtcontainers.PodSandbox {
		return c.sandbox.Metrics(ctx)
	}
	agent, err := c.guest.call()
	if err != nil {
		return nil, err
	}
	m, err := agent.stats(ctx, c.ref())
	if err != nil {
		return nil, fmt.Errorf("measuring container %s: %w", c.id, err)
	}
	return m, nil
}

// ProcessInfo is a process as the guest has it.
type ProcessInfo struct {
	PID    uint32
	ExecID string // set for the first process of an exec
}

// Pids are the processes of the container, with the guest's process ids.
func (c *Container) Pids(ctx context.Context) ([]ProcessInfo, error) {
	agent, err := c.guest.call()
	if err != nil {
		return nil, err
	}
	list, err := agent.pids(ctx, c.ref())
	if err != nil {
		return nil, fmt.Errorf("listing the processes of container %s: %w", c.id, err)
	}
	infos := make([]ProcessInfo, 0, len(list))
	for _, p := range list {
		info := ProcessInfo{PID: p.GetPid(), ExecID: p.GetExecId()}
		if _, err := c.Process(info.ExecID); err != nil {
			info.ExecID = ""
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// Signal sends a signal to every process of the container.
func (c *Container) Signal(ctx context.Context, sig uint32) error {
	return c.init.signal(ctx, sig, true)
}

// delete releases the container in the guest and on the host.
func (c *Container) delete(ctx context.Context) error {
	if c.init.State() == Stopped {
		if err := c.saveChanges(ctx); err != nil {
			// That it cannot be kept is no reason to keep the container.
			c.log.WithError(err).Error("what the container has written to its root filesystem is lost")
		}
	}
	c.beginDeleting()
	if c.sandbox.endsWith(c) {
		// Nobody has to wait for that now.
		c.sandbox.tasks.Go(c.guest.kill)
	} else if agent, err := c.guest.call(); err == nil {
		if err := c.deleteInGuest(ctx, agent); err != nil {
			return fmt.Errorf("deleting container %s: %w", c.id, err)
		}
	}
	if !c.sandbox.forget(c) {
		return fmt.Errorf("container %s: %w", c.id, errdefs.ErrNotFound)
	}
	c.guest.refit(ctx)
	c.afterDelete(ctx)
	return nil
}

// deleteInGuest has the guest delete the container. One that fails to gets some chances, and
// is then left alone: it must not keep its pod on the host.
func (c *Container) deleteInGuest(ctx context.Context, agent *agentClient) error {
	err := agent.delete(ctx, &agentv1.ProcessRef{ContainerId: c.id})
	if err == nil || errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
		return nil
	}
	if c.deletions.Add(1) < maxDeletions {
		return err
	}
	c.log.WithError(err).Errorf("the guest does not delete the container, asked %d times: it is left there", maxDeletions)
	return nil
}

// afterDelete releases what the host has of a container that is out of the
// guest. It goes on where something fails: the mounts are private to this
// process and end with it.
func (c *Container) afterDelete(ctx context.Context) {
	if c.init != nil {
		for _, p := range c.processes() {
			p.streams.close()
		}
	}
	c.beginDeleting()
	c.sandbox.sockets.remove(c.sockets)
	c.releaseDisks(ctx)
	c.releaseRootDisks()
	if err := c.sandbox.share.drop(c.place); err != nil {
		c.log.WithError(err).Error("deleting a container")
	}
	if err := unmountRootfs(filepath.Join(c.bundle, rootfsDir)); err != nil {
		c.log.WithError(err).Error("deleting a container")
	}
	c.runStopHooks(ctx)
}
