package agent

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

// startContainer has the init, which waits for that, run the container's program.
func (c *container) startContainer(ctx context.Context) error {
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	if err := c.init.want(stateCreated, "start"); err != nil {
		return err
	}
	if c.paused {
		return fmt.Errorf("cannot start container %s: it is paused: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if err := c.jail.begin(ctx, c.init.stopped); err != nil {
		return fmt.Errorf("starting container %s: %w", c.id, err)
	}
	c.init.running()
	return nil
}

// awaitWriter opens a fifo for reading, which lets the init that waits to open
// it for writing go on, and returns when that has written. It gives up when the
// init has ended, or ctx.
//
// libcontainer's own way leaves a thread behind when the init dies first.
func awaitWriter(ctx context.Context, fifo string, dead <-chan struct{}) error {
	f, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-dead:
		case <-ctx.Done():
		}
		_ = f.SetReadDeadline(time.Unix(1, 0))
	}()
	defer func() { cancel(); <-watched }()

	buf := make([]byte, 1)
	wrote := false
	try := func(fd uintptr) bool {
		n, err := unix.Read(int(fd), buf) // 0: nobody has opened it yet
		wrote = err == nil && n > 0
		return wrote
	}
	if err := raw.Read(try); err != nil {
		// It may have written just before it ended.
		_ = raw.Control(func(fd uintptr) { try(fd) })
	}
	switch {
	case wrote:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("container process is already dead: %w", errdefs.ErrFailedPrecondition)
}
