package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Watch waits for the end of all that a cell's sandboxes are on the host.
type Watch struct {
	cell *Cell
	fds  []unix.PollFd // of the processes that there were
}

// Watch notes the processes that there are now. Close ends the watch.
func (c *Cell) Watch() (*Watch, error) {
	w := &Watch{cell: c}
	for _, p := range c.Below() {
		fd, err := unix.PidfdOpen(p.PID, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			w.Close()
			return nil, fmt.Errorf("watching the process %s: %w", p, err)
		}
		w.fds = append(w.fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	return w, nil
}

// Close releases the watch.
func (w *Watch) Close() {
	for _, fd := range w.fds {
		unix.Close(int(fd.Fd))
	}
	w.fds = nil
}

// Wait returns when the processes have ended, and the cell has no bundle and no
// mount of a task any more.
func (w *Watch) Wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Slowly(2*TeardownLimit))
	defer cancel()
	if err := w.waitProcesses(ctx); err != nil {
		return err
	}
	// containerd removes bundles and mounts before it answers: the first look is
	// mostly the last. There is no event for both.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		left := w.cell.bundles()
		if len(left) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("still there after %s: %s", 2*TeardownLimit, strings.Join(left, ", "))
		}
	}
}

// waitProcesses waits until every process has ended.
func (w *Watch) waitProcesses(ctx context.Context) error {
	// Closed when ctx ends, which ends the wait.
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	defer write.Close()
	stop := context.AfterFunc(ctx, func() { write.Close() })
	defer stop()
	waiting := append([]unix.PollFd{{Fd: int32(read.Fd()), Events: unix.POLLIN}}, w.fds...)
	for len(waiting) > 1 {
		if _, err := unix.Poll(waiting, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for processes: %w", err)
		}
		if waiting[0].Revents != 0 {
			return fmt.Errorf("waiting for the end of %d processes: %w", len(waiting)-1, context.Cause(ctx))
		}
		still := waiting[:1]
		for _, fd := range waiting[1:] {
			if fd.Revents == 0 {
				still = append(still, fd)
			}
		}
		waiting = still
	}
	return nil
}

// bundles lists the bundles of tasks and what is mounted in them.
func (c *Cell) bundles() []string {
	dir := filepath.Join(c.Dir, "state", "io.containerd.runtime.v2.task")
	left, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
	return append(left, mountsBelow(dir)...)
}
