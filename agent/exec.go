package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

// addExec records a process to be run in the container. It takes io over, also
// when it fails.
func (c *container) addExec(id string, spec *specs.Process, io *stdio) (err error) {
	defer func() {
		if err != nil {
			io.close()
		}
	}()
	lp, err := libcontainerProcess(spec)
	if err != nil {
		return err
	}
	if state, _ := c.init.current(); state == stateStopped {
		return errStopped(c.id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deleting {
		return errStopped(c.id)
	}
	if _, ok := c.execs[id]; ok {
		return fmt.Errorf("exec %s in container %s: %w", id, c.id, errdefs.ErrAlreadyExists)
	}
	if len(c.execs) >= maxExecs {
		return fmt.Errorf("container %s has %d execs: %w", c.id, maxExecs, errdefs.ErrResourceExhausted)
	}
	c.execs[id] = newProcess(c, id, lp, io)
	return nil
}

func errStopped(id string) error {
	return fmt.Errorf("cannot exec in a stopped container (%s): %w", id, errdefs.ErrFailedPrecondition)
}

// startExec runs an exec that was added. One that fails to start is stopped.
func (c *container) startExec(ctx context.Context, p *process) error {
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	if err := p.want(stateCreated, "start"); err != nil {
		return err
	}
	if state, _ := c.init.current(); state == stateStopped {
		return errStopped(c.id)
	}
	if c.paused {
		// It would freeze half made, and never answer.
		return fmt.Errorf("cannot exec in a paused container (%s): %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if err := c.runExec(ctx, p); err != nil {
		p.io.close()
		p.stop(exit{status: 255, at: time.Now()})
		return err
	}
	p.running()
	return nil
}

func (c *container) runExec(ctx context.Context, p *process) error {
	config := c.jail.config()
	uid, gid, err := rootIDs(config)
	if err != nil {
		return err
	}
	if err := p.io.attach(p.lp, uid, gid); err != nil {
		return err
	}
	initial := splitAffinity(p.lp, c.affinity)
	p.ooms = c.cgroup.oomKills()
	if err := c.beginExec(ctx, p, config, initial); err != nil {
		return fmt.Errorf("OCI runtime exec failed: %w", err)
	}
	if err := p.io.started(); err != nil {
		c.abortProcess(p)
		return err
	}
	if err := p.began(); err != nil {
		c.abortProcess(p)
		return err
	}
	return nil
}

// beginExec starts the exec's process: by the usher if that can be, which takes a quarter
// of the time, else as libcontainer does.
func (c *container) beginExec(ctx context.Context, p *process, config *configs.Config, initial *unix.CPUSet) error {
	if initial == nil {
		entered, err := c.enter(ctx, config, p.lp)
		if err == nil {
			p.run = entered
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		c.log.debugf("%s is left to libcontainer: %v", p.name(), err)
	}
	return c.forker.do(func() error {
		return withAffinity(initial, func() error { return c.jail.start(p.lp) })
	})
}

// splitAffinity takes the CPUs with which the exec is to begin out of lp.
// libcontainer would fork it from a thread that ends, see forker.
func splitAffinity(lp *libcontainer.Process, inherited *configs.CPUAffinity) (initial *unix.CPUSet) {
	affinity := lp.CPUAffinity
	if affinity == nil {
		affinity = inherited
	}
	if affinity == nil || affinity.Initial == nil {
		lp.CPUAffinity = affinity
		return nil
	}
	final := affinity.Final
	if final == nil {
		final = affinity.Initial
	}
	lp.CPUAffinity = &configs.CPUAffinity{Final: final}
	return affinity.Initial
}

// withAffinity runs f, on the caller's locked thread, on the CPUs of set.
func withAffinity(set *unix.CPUSet, f func() error) error {
	if set == nil {
		return f()
	}
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("reading the CPU affinity: %w", err)
	}
	if err := unix.SchedSetaffinity(0, set); err != nil {
		return fmt.Errorf("setting the exec's initial CPU affinity: %w", err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }()
	return f()
}

// exec returns an exec by its id.
func (c *container) exec(id string) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.execs[id]
	if !ok {
		return nil, fmt.Errorf("exec %s in container %s: %w", id, c.id, errdefs.ErrNotFound)
	}
	return p, nil
}

func (c *container) listExecs() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*process, 0, len(c.execs))
	for _, p := range c.execs {
		list = append(list, p)
	}
	return list
}

// lastExecs lists the execs for the last time: none can be added after it.
func (c *container) lastExecs() []*process {
	c.mu.Lock()
	c.deleting = true
	c.mu.Unlock()
	return c.listExecs()
}

// deleteExec forgets an exec that is not running.
func (c *container) deleteExec(ctx context.Context, id string) error {
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	p, err := c.exec(id)
	if err != nil {
		return err
	}
	if state, _ := p.current(); state == stateRunning {
		return fmt.Errorf("cannot delete %s: it is running: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	p.io.close()
	c.mu.Lock()
	delete(c.execs, id)
	c.mu.Unlock()
	return nil
}
