package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

// maxCPUs bounds how many processors the guest is asked to use.
const maxCPUs = 1024

// cpus are the guest's processors: those that its machine has, of which some are in use.
type cpus struct {
	sysfs  string // the kernel's directory of processors
	cgroup string // the root of the cgroups
	mu     sync.Mutex
}

func newCPUs() *cpus {
	return &cpus{sysfs: "/sys/devices/system/cpu", cgroup: cgroupRoot}
}

// set has the first count processors in use, and no others. It returns how many are,
// and if these are not as many, why. It goes on where one will not be as it should,
// and stops when ctx ends: the kernel itself is not to be interrupted.
func (c *cpus) set(ctx context.Context, count uint32) (uint32, error) {
	if count < 1 || count > maxCPUs {
		return 0, fmt.Errorf("%d processors: want 1 to %d: %w", count, maxCPUs, errdefs.ErrInvalidArgument)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	present, err := c.list("present")
	if err != nil {
		return 0, err
	}
	var failed error
	for cpu := range maxCPUs {
		if !present.IsSet(cpu) {
			continue
		}
		if err := ctx.Err(); err != nil {
			failed = fmt.Errorf("not in time: %w", err)
			break
		}
		if err := c.use(cpu, cpu < int(count)); err != nil && failed == nil {
			failed = err
		}
	}
	c.settle()
	online, err := c.list("online")
	if err != nil {
		return 0, err
	}
	have := uint32(online.Count())
	if have < count && failed == nil {
		failed = fmt.Errorf("the machine has %d processors", present.Count())
	}
	return have, failed
}

// use brings a processor into use, or takes it out, unless it is so.
func (c *cpus) use(cpu int, use bool) error {
	path := filepath.Join(c.sysfs, fmt.Sprintf("cpu%d", cpu), "online")
	is, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && cpu == 0:
		return nil // many kernels cannot do without the first, and have no such file
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the kernel cannot bring processors into use while it runs (CONFIG_HOTPLUG_CPU)")
	case err != nil:
		return err
	}
	want := "0"
	if use {
		want = "1"
	}
	if strings.TrimSpace(string(is)) == want {
		return nil
	}
	return os.WriteFile(path, []byte(want), 0)
}

// settle waits until the cgroups know of the processors. Older kernels tell them at some
// time later, but before they take a set of processors that is written.
func (c *cpus) settle() {
	dir, err := os.MkdirTemp(c.cgroup, "cpus-")
	if err != nil {
		return // no cgroups: nothing to wait for
	}
	_ = os.WriteFile(filepath.Join(dir, "cpuset.cpus"), []byte("\n"), 0)
	_ = unix.Rmdir(dir)
}

// list reads one of the kernel's lists of processors.
func (c *cpus) list(name string) (*unix.CPUSet, error) {
	data, err := os.ReadFile(filepath.Join(c.sysfs, name))
	if err != nil {
		return nil, fmt.Errorf("listing the processors: %w", err)
	}
	set, err := parseCPUs(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, fmt.Errorf("listing the processors that are %s: %w", name, err)
	}
	return set, nil
}

// parseCPUs reads a list as of cpuset(7), such as "0-2,5". Processors beyond maxCPUs
// are left out.
func parseCPUs(list string) (*unix.CPUSet, error) {
	set := &unix.CPUSet{}
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(from, 10, 32)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(to, 10, 32)
		}
		if err != nil || last < first {
			return nil, fmt.Errorf("%.64q is no list of processors: %w", list, errdefs.ErrInvalidArgument)
		}
		for cpu := first; cpu <= last && cpu < maxCPUs; cpu++ {
			set.Set(int(cpu))
		}
	}
	return set, nil
}

// formatCPUs writes a list of processors.
func formatCPUs(set *unix.CPUSet) string {
	var list []string
	for cpu := range maxCPUs {
		if set.IsSet(cpu) {
			list = append(list, strconv.Itoa(cpu))
		}
	}
	return strings.Join(list, ",")
}
