package task

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// execsExit is how long the exit of a container is held back for the
	// output of its execs.
	execsExit = 10 * time.Second
	// execsLate is how long after that it is held back for their exits.
	execsLate = 2 * time.Second
)

// container is a task.
type container struct {
	id     string
	bundle string
	pid    uint32 // a host process that stands for the task
	guest  Container
	init   *process

	mu    sync.Mutex
	execs map[string]*process // nil values are ids whose exec is being made
	// stopping says that init has exited: no exec starts any more.
	stopping bool
	// closed says that the container is being deleted.
	closed bool
}

// process returns the init for an empty id, else an exec.
func (c *container) process(execID string) (*process, error) {
	if execID == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.execs[execID]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("task %s has no exec %q: %w", c.id, execID, errdefs.ErrNotFound)
}

// reserve takes an exec id; give it back with release or fill it with add.
func (c *container) reserve(execID string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.execs[execID]; ok {
		return fmt.Errorf("exec %q of task %s: %w", execID, c.id, errdefs.ErrAlreadyExists)
	}
	if c.stopping {
		return fmt.Errorf("exec in task %s: it has stopped: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	c.execs[execID] = nil
	return nil
}

func (c *container) release(execID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.execs, execID)
}

// add fills a reserved id; it reports false when the container is gone.
func (c *container) add(p *process) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	if c.stopping {
		p.bar()
	}
	c.execs[p.id] = p
	return true
}

// close refuses everything and returns the execs that there are.
func (c *container) close() []*process {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	return c.stop()
}

// stop refuses new execs and new starts, and returns the execs that there are.
func (c *container) stop() []*process {
	c.mu.Lock()
	c.stopping = true
	execs := c.all()
	c.mu.Unlock()
	for _, p := range execs {
		p.bar()
	}
	return execs
}

// all returns the execs. The caller holds mu.
func (c *container) all() []*process {
	ps := make([]*process, 0, len(c.execs))
	for _, p := range c.execs {
		if p != nil {
			ps = append(ps, p)
		}
	}
	return ps
}

// awaitExecs returns when all execs that ran have finished: init is gone, so
// they end. After execsExit their output is no longer waited for; execsLate
// later, they themselves are not.
func awaitExecs(execs []*process) {
	ctx, cancel := context.WithTimeout(context.Background(), execsExit+execsLate)
	defer cancel()
	defer time.AfterFunc(execsExit, func() {
		for _, p := range execs {
			p.giveUp()
		}
	}).Stop()
	for _, p := range execs {
		if !p.settled(ctx.Done()) {
			continue
		}
		select {
		case <-p.finished:
		case <-ctx.Done():
		}
	}
}
