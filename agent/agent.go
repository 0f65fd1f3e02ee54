package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

const (
	// Version is the agent's version, as Configure tells it.
	Version = "0.1.0"

	stateDir = "/run/hyper/state"
	// usherDir is where the usher's program is shielded.
	usherDir = "/run/hyper/usher"
	// maxContainers is how many containers a guest may hold.
	maxContainers = 1024
)

// Agent is the state of the guest that outlives sessions.
type Agent struct {
	log    *logger
	phases *phases
	forker *forker
	holder *holder
	usher  *usher
	events *events
	oom    *oomWatch
	guest  guest
	cpus   *cpus
	// devices filters which of them containers can use.
	devices deviceFilter
	// known are disks that the guest had when it was saved.
	known knownDisks
	// network is the guest's own. forwards has a place for each connection that
	// may be forwarded to it at once.
	network  *network
	forwards chan struct{}
	// relays are connections to sockets of the host.
	relays *relays
	// volumes are of containers that are there or being made.
	volumes *volumes
	// modules are being loaded, and settled is closed when the boot has ended,
	// with settleErr.
	modules   *modules
	settled   chan struct{}
	settleErr error

	mu         sync.Mutex
	containers map[string]*container
	making     map[string]bool // ids that are taken by a CreateContainer under way
}

func newAgent(log *logger, ph *phases) (*Agent, error) {
	hub := newEvents()
	oom, err := newOOMWatch(hub)
	if err != nil {
		return nil, err
	}
	forker := newForker()
	a := &Agent{
		log: log, phases: ph, forker: forker, holder: &holder{forker: forker}, usher: newUsher(forker, usherDir), events: hub, oom: oom,
		modules:    newModules(log, "/proc/filesystems"),
		network:    newNetwork(log),
		forwards:   make(chan struct{}, maxForwards),
		relays:     newRelays(hub),
		volumes:    newVolumes(),
		settled:    make(chan struct{}),
		cpus:       newCPUs(),
		guest:      guest{log: log, mounted: map[string]*agentv1.Mount{}},
		containers: map[string]*container{},
		making:     map[string]bool{},
	}
	a.devices.install()
	return a, nil
}

// settle ends the boot. It is called once.
func (a *Agent) settle() {
	defer close(a.settled)
	if err := settle(a.log); err != nil {
		a.log.infof("booting: %v", err)
		a.settleErr = err
	}
	a.phases.mark("userland")
}

// booted waits until the boot has ended: what is mounted and set by then stays.
func (a *Agent) booted(ctx context.Context) error {
	select {
	case <-a.settled:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the guest to have booted: %w", ctx.Err())
	}
	if a.settleErr != nil {
		return fmt.Errorf("the guest could not boot: %w", a.settleErr)
	}
	return nil
}

// ready waits until the guest is fit for containers.
func (a *Agent) ready(ctx context.Context) error {
	if err := a.booted(ctx); err != nil {
		return err
	}
	// libcontainer shields the agent's program with an overlay.
	return a.modules.await(ctx, "overlay")
}

// awaitMounts waits until the kernel can make the mounts.
func (a *Agent) awaitMounts(ctx context.Context, mounts []*agentv1.Mount) error {
	for _, m := range mounts {
		if err := a.modules.await(ctx, m.GetType()); err != nil {
			return err
		}
	}
	return nil
}

// reserve takes an id for a container that is being made. Either publish or
// withdraw must follow.
func (a *Agent) reserve(id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.making[id] || a.containers[id] != nil {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	if len(a.making)+len(a.containers) >= maxContainers {
		return fmt.Errorf("the guest has %d containers: %w", maxContainers, errdefs.ErrResourceExhausted)
	}
	a.making[id] = true
	return nil
}

func (a *Agent) withdraw(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.making, id)
}

func (a *Agent) publish(c *container) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.making, c.id)
	a.containers[c.id] = c
}

func (a *Agent) forget(c *container) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.containers, c.id)
}

// container returns a container that has been created.
func (a *Agent) container(id string) (*container, error) {
	if err := validateID("container id", id); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.containers[id]
	if c == nil {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// process returns a container's init, or one of its execs.
func (a *Agent) process(containerID, execID string) (*process, error) {
	c, err := a.container(containerID)
	if err != nil {
		return nil, err
	}
	if execID == "" {
		return c.init, nil
	}
	if err := validateID("exec id", execID); err != nil {
		return nil, err
	}
	return c.exec(execID)
}

// createContainer makes a container with the streams that the session has.
func (a *Agent) createContainer(ctx context.Context, from *streams, req *agentv1.CreateContainerRequest) (_ *container, err error) {
	id := req.GetContainerId()
	if err := validateID("container id", id); err != nil {
		return nil, err
	}
	spec, err := decodeSpec(id, req.GetSpec())
	if err != nil {
		return nil, err
	}
	if err := a.reserve(id); err != nil {
		return nil, err
	}
	defer a.withdraw(id)
	defer func() {
		if err != nil {
			err = errors.Join(err, a.volumes.remove(id))
		}
	}()
	disks, root, err := a.awaitParts(ctx, req)
	if err != nil {
		return nil, err
	}
	defer root.remove()
	io, err := claimStdio(ctx, from, req.GetStreams())
	if err != nil {
		return nil, err
	}
	release, err := a.joinContainers(spec)
	if err != nil {
		io.close()
		return nil, err
	}
	defer release()
	c := a.newContainer(id)
	if err := c.create(ctx, spec, io, a.relays, req, disks, root); err != nil {
		return nil, err
	}
	a.publish(c)
	if err := a.oom.add(c); err != nil {
		a.log.infof("no OOM events of container %s: %v", id, err)
	}
	return c, nil
}

// awaitParts waits for what a container is made of: the kernel's and the pod's parts, and its
// disks, which the host may still be plugging in. The nodes of root are the caller's to remove.
func (a *Agent) awaitParts(ctx context.Context, req *agentv1.CreateContainerRequest) (disks []foundDisk, root rootDisks, err error) {
	id := req.GetContainerId()
	if err := a.ready(ctx); err != nil {
		return nil, rootDisks{}, err
	}
	if err := a.awaitMounts(ctx, req.GetMounts()); err != nil {
		return nil, rootDisks{}, err
	}
	if err := a.volumes.bindMemory(id, req.GetMemoryVolumes()); err != nil {
		return nil, rootDisks{}, err
	}
	if disks, err = findDisks(ctx, req.GetDisks()); err != nil {
		return nil, rootDisks{}, err
	}
	begin := time.Now()
	if root, err = a.findRootfs(ctx, id, req.GetRootfs()); err != nil {
		return nil, rootDisks{}, err
	}
	if req.GetRootfs() != nil {
		a.log.debugf("container %s: the disks of its root file system were there after %v", id, time.Since(begin))
	}
	return disks, root, nil
}

// newContainer is a container that nothing has been made of.
func (a *Agent) newContainer(id string) *container {
	return &container{
		id: id, log: a.log, forker: a.forker, usher: a.usher, stateDir: stateDir, machine: a.cpus,
		ops: make(chan struct{}, 1), execs: map[string]*process{},
	}
}

func (a *Agent) deleteContainer(ctx context.Context, c *container) error {
	if err := c.delete(ctx); err != nil {
		return err
	}
	a.oom.remove(c)
	a.forget(c)
	return a.volumes.remove(c.id)
}
