package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"

	"github.com/containerd/errdefs"
)

// jail is a container as the kernel has it, with its init: made by libcontainer, or by
// the usher.
type jail interface {
	// begin has the init, which waits, execute the container's program. It is an error
	// if the init has ended before, which dead tells.
	begin(ctx context.Context, dead <-chan struct{}) error
	// start starts another process as libcontainer does, on a thread of the forker.
	start(p *libcontainer.Process) error
	// config is what the container was made by. It is not to be changed.
	config() *configs.Config
	// pause and resume are libcontainer.ErrNotRunning or ErrNotPaused where that is so.
	pause() error
	resume() error
	// destroy removes what is left of the container, whose processes must have ended.
	// It can be tried again.
	destroy() error
}

// libcontainerJail is a container that libcontainer has made.
type libcontainerJail struct {
	*libcontainer.Container
	dir  string // the container's, of libcontainer
	made *configs.Config
}

func (j *libcontainerJail) start(p *libcontainer.Process) error { return j.Start(p) }
func (j *libcontainerJail) config() *configs.Config             { return j.made }
func (j *libcontainerJail) pause() error                        { return j.Pause() }
func (j *libcontainerJail) resume() error                       { return j.Resume() }
func (j *libcontainerJail) destroy() error                      { return j.Destroy() }

func (j *libcontainerJail) begin(ctx context.Context, dead <-chan struct{}) error {
	fifo := filepath.Join(j.dir, "exec.fifo")
	if err := awaitWriter(ctx, fifo, dead); err != nil {
		return err
	}
	// libcontainer tells a created container from a running one by this file.
	if err := os.Remove(fifo); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// makeByLibcontainer makes the container, and its init with libcontainer.
func (c *container) makeByLibcontainer(config *configs.Config) error {
	lc, err := libcontainer.Create(c.stateDir, c.id, config)
	if err != nil {
		return createError(c.id, err)
	}
	c.jail = &libcontainerJail{Container: lc, dir: filepath.Join(c.stateDir, c.id), made: config}
	if err := c.forker.do(func() error { return lc.Start(c.init.lp) }); err != nil {
		return createError(c.id, err)
	}
	return nil
}

func createError(id string, err error) error {
	switch {
	case errors.Is(err, libcontainer.ErrExist):
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	case errors.Is(err, libcontainer.ErrInvalidID):
		return fmt.Errorf("container id %q: %w", id, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("OCI runtime create failed: %w", err)
}
