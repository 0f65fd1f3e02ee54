package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

const (
	// maxExecs is how many execs of one container may exist.
	maxExecs = 1024
	// killTime bounds the wait for killed processes to be gone.
	killTime = 10 * time.Second
)

// container is one container and its processes.
type container struct {
	id       string
	log      *logger
	forker   *forker
	usher    *usher
	stateDir string // the directory that holds libcontainer's for each container
	machine  *cpus
	cgroup   cgroup
	init     *process
	// namespaces of the container, as its spec wants them.
	namespaces configs.Namespaces
	affinity   *configs.CPUAffinity // of execs that have none of their own
	rootfs     *rootfs              // nil if it is not on disks

	// ops is held by the one operation that changes the container's state:
	// start, pause, resume, update, delete. Signals do without, so that a
	// container can be killed whatever it is at.
	ops chan struct{}
	// Below: used with ops held only.
	jail      jail     // nil before it is made
	holds     *holds   // on the share, nil before
	mounts    []string // made for the container, in order
	nodes     string   // directory of those of the container's disks, if it has any
	sockets   *sockets // of the host, for which its mounts listen
	resources *specs.LinuxResources
	paused    bool
	gone      bool

	mu       sync.Mutex
	execs    map[string]*process
	deleting bool // no exec is added any more
}

// acquire begins an operation, when the one that is under way has ended.
func (c *container) acquire(ctx context.Context) error {
	select {
	case c.ops <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("container %s is busy: %w", c.id, ctx.Err())
	}
	if c.gone {
		c.release()
		return fmt.Errorf("container %s: %w", c.id, errdefs.ErrNotFound)
	}
	return nil
}

func (c *container) release() { <-c.ops }

// create makes the container and its init, which then waits to be started.
// Nothing is left behind when it fails.
func (c *container) create(ctx context.Context, spec *specs.Spec, io *stdio, relays *relays, req *agentv1.CreateContainerRequest, disks []foundDisk, root rootDisks) (err error) {
	defer func() {
		if err != nil {
			io.close()
			err = errors.Join(err, c.destroy())
		}
	}()
	if c.mounts, err = mountAll(req.GetMounts()); err != nil {
		return err
	}
	if c.sockets, err = listenAll(relays, c.id, req.GetSockets()); err != nil {
		return err
	}
	if c.rootfs, err = mountRootfs(c.id, req.GetRootfs(), root); err != nil {
		return err
	}
	if len(disks) > 0 {
		c.nodes = filepath.Join(nodesDir, c.id)
		if err := addDisks(spec, c.nodes, disks); err != nil {
			return err
		}
	}
	if err := c.machine.confine(spec.Linux.Resources); err != nil {
		return err
	}
	config, err := containerConfig(c.id, spec)
	if err != nil {
		return err
	}
	c.namespaces = config.Namespaces
	c.affinity, config.ExecCPUAffinity = config.ExecCPUAffinity, nil
	c.resources = spec.Linux.Resources
	if c.resources == nil {
		c.resources = &specs.LinuxResources{}
	}
	c.cgroup = cgroup(filepath.Join(cgroupRoot, spec.Linux.CgroupsPath))
	lp, err := libcontainerProcess(spec.Process)
	if err != nil {
		return err
	}
	lp.Init, lp.CPUAffinity = true, nil
	uid, gid, err := rootIDs(config)
	if err != nil {
		return err
	}
	if err := io.attach(lp, uid, gid); err != nil {
		return err
	}
	c.init = newProcess(c, "", lp, io)
	c.holds = holdShare(config)
	return c.makeInit(ctx, config)
}

// rootIDs are the guest's ids of the container's root.
func rootIDs(config *configs.Config) (uid, gid int, err error) {
	if uid, err = config.HostRootUID(); err == nil {
		gid, err = config.HostRootGID()
	}
	if err != nil {
		return 0, 0, fmt.Errorf("the user namespace of the OCI spec: %v: %w", err, errdefs.ErrInvalidArgument)
	}
	return uid, gid, nil
}

// makeInit makes the container with its init: by the usher if that can be, which is several
// times as fast, else as libcontainer does.
func (c *container) makeInit(ctx context.Context, config *configs.Config) error {
	if err := c.makeByUsher(ctx, config); err != nil {
		if ctx.Err() != nil {
			return err
		}
		c.log.debugf("container %s is left to libcontainer: %v", c.id, err)
		if err := c.makeByLibcontainer(config); err != nil {
			return err
		}
	}
	if err := c.init.io.started(); err != nil {
		c.abortProcess(c.init)
		return err
	}
	pid, err := c.init.run.Pid()
	if err == nil {
		err = c.holds.follow(pid)
	}
	if err == nil {
		err = c.init.began()
	}
	if err != nil {
		c.abortProcess(c.init)
		return err
	}
	return nil
}

// abortProcess ends a process that nobody watches yet.
func (c *container) abortProcess(p *process) {
	_ = p.run.Signal(unix.SIGKILL)
	_, _ = p.run.Wait()
}

// destroy undoes create, as far as that came. The container's processes must
// have ended. It can be tried again.
func (c *container) destroy() error {
	if err := c.holds.release(); err != nil {
		return fmt.Errorf("destroying container %s: %w", c.id, err)
	}
	if c.jail != nil {
		if err := c.jail.destroy(); err != nil {
			return fmt.Errorf("destroying container %s: %w", c.id, err)
		}
		c.jail = nil
	}
	c.sockets.close()
	if err := unmountAll(c.mounts); err != nil {
		return err
	}
	c.mounts = nil
	if err := c.rootfs.remove(); err != nil {
		return err
	}
	return c.letDisksGo()
}

// letDisksGo makes the container's disks ready to be taken out of the machine.
func (c *container) letDisksGo() error {
	if c.nodes == "" {
		return nil
	}
	if err := os.RemoveAll(c.nodes); err != nil {
		return fmt.Errorf("removing nodes of disks: %w", err)
	}
	// A file system that the container had mounted may still be on its way out.
	unix.Sync()
	c.nodes = ""
	return nil
}

// delete kills what still lives of the container and releases all that it has.
func (c *container) delete(ctx context.Context) error {
	if err := c.cgroup.kill(); err != nil {
		return err
	}
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	processes := append(c.lastExecs(), c.init)
	if err := c.end(ctx, processes); err != nil {
		return err
	}
	for _, p := range processes {
		p.io.close()
	}
	if err := c.destroy(); err != nil {
		return err
	}
	c.gone = true
	return nil
}

// end kills the processes and waits until no process of the container is left.
func (c *container) end(ctx context.Context, processes []*process) error {
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	// Also where it was done before: an exec may have been starting.
	if err := c.cgroup.kill(); err != nil {
		return err
	}
	for _, p := range processes {
		if err := p.awaitKilled(ctx); err != nil {
			return err
		}
	}
	return c.cgroup.waitEmpty(ctx)
}

// awaitKilled waits for the end of a process that was killed, if it ever began.
func (p *process) awaitKilled(ctx context.Context) error {
	if state, pid := p.current(); pid == 0 || state == stateStopped {
		return nil
	}
	select {
	case <-p.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s does not end though it was killed: %w", p.name(), ctx.Err())
	}
}

// signalAll sends a signal to all processes of the container.
func (c *container) signalAll(sig unix.Signal) error {
	pids, err := c.cgroup.pids()
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("container %s: process already finished: %w", c.id, errdefs.ErrNotFound)
	}
	if sig == unix.SIGKILL {
		return c.cgroup.kill()
	}
	for _, pid := range pids {
		// One that ended meanwhile needs no signal.
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			return fmt.Errorf("sending signal %d to process %d of container %s: %w", sig, pid, c.id, err)
		}
	}
	return nil
}

// signalInit sends a signal to the init. Where that is not the first process of
// a PID namespace, the others do not die with it by themselves.
func (c *container) signalInit(sig unix.Signal) error {
	if err := c.init.signal(sig); err != nil {
		return err
	}
	if sig == unix.SIGKILL && !c.privatePIDs() {
		return c.cgroup.kill()
	}
	return nil
}
