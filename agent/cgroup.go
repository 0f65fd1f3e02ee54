package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// cgroup is the directory of a container's cgroup.
type cgroup string

// open opens it as a directory that processes are made in.
func (c cgroup) open() (fd int, err error) {
	fd, err = unix.Open(string(c), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening cgroup %s: %w", c, err)
	}
	return fd, nil
}

// kill kills all processes in the cgroup, also while it is frozen.
func (c cgroup) kill() error {
	err := os.WriteFile(filepath.Join(string(c), "cgroup.kill"), []byte("1"), 0)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("killing the processes of cgroup %s: %w", c, err)
}

// oomKills is how many processes of the cgroup the kernel has killed for lack
// of memory.
func (c cgroup) oomKills() uint64 { return c.event("memory.events", "oom_kill") }

func (c cgroup) populated() bool { return c.event("cgroup.events", "populated") != 0 }

// event returns a value of a flat-keyed file, 0 if it is not there.
func (c cgroup) event(file, key string) uint64 { return c.keyed(file)[key] }

// keyed reads a flat-keyed file, empty if it is not there.
func (c cgroup) keyed(file string) map[string]uint64 {
	data, err := os.ReadFile(filepath.Join(string(c), file))
	if err != nil {
		return nil
	}
	return parseKeyed(string(data))
}

// parseKeyed reads a cgroup file of lines "key value". Others are skipped.
func parseKeyed(data string) map[string]uint64 {
	values := map[string]uint64{}
	for line := range strings.Lines(data) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); ok && err == nil {
			values[key] = n
		}
	}
	return values
}

// waitEmpty waits until no process is left in the cgroup.
func (c cgroup) waitEmpty(ctx context.Context) error {
	w, err := newInotify()
	if err != nil {
		return err
	}
	defer w.close()
	stop := context.AfterFunc(ctx, w.close)
	defer stop()
	if _, err := w.add(filepath.Join(string(c), "cgroup.events")); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil // never made, or gone
		}
		return err
	}
	for c.populated() {
		if _, err := w.next(); err != nil {
			return fmt.Errorf("waiting for the processes of cgroup %s to end: %w", c, firstError(ctx.Err(), err))
		}
	}
	return nil
}

// pids are the processes in the cgroup and below, as the guest's root PID
// namespace numbers them.
func (c cgroup) pids() ([]int, error) {
	pids, err := cgroups.GetAllPids(string(c))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing the processes of cgroup %s: %w", c, err)
	}
	return pids, nil
}
