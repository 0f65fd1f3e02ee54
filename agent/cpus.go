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

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

// maxCPUs bounds how many processors the guest is asked to use.
const maxCPUs = 1024

// cpus are the processors of the guest's machine, of which some are in use.
type cpus struct {
	sysfs   string // the kernel's directory of them
	cgroups string // the root of the cgroups
	// changing is held by who brings some into use, or takes some out.
	changing sync.Mutex
}

func newCPUs() *cpus {
	return &cpus{sysfs: "/sys/devices/system/cpu", cgroups: cgroupRoot}
}

// set has the first count processors in use, and no others. It returns how many are,
// and if these are not so many, why: one that will not be as it should is left so.
// When ctx ends, what the kernel has begun it still ends.
func (c *cpus) set(ctx context.Context, count uint32) (have uint32, why string, err error) {
	if count < 1 || count > maxCPUs {
		return 0, "", fmt.Errorf("%d processors: want 1 to %d: %w", count, maxCPUs, errdefs.ErrInvalidArgument)
	}
	c.changing.Lock()
	defer c.changing.Unlock()
	present, err := c.list("present")
	if err != nil {
		return 0, "", err
	}
	if most := uint32(present.Count()); count > most {
		why = fmt.Sprintf("the machine has %d", most)
	}
	for cpu := range maxCPUs {
		if !present.IsSet(cpu) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return 0, "", fmt.Errorf("changing the processors in use: %w", err)
		}
		if err := c.use(cpu, cpu < int(count)); err != nil {
			why = err.Error()
		}
	}
	c.tellCgroups()
	online, err := c.list("online")
	if err != nil {
		return 0, "", err
	}
	if have = uint32(online.Count()); have == count {
		why = ""
	}
	return have, why, nil
}

// use brings a processor into use, or takes it out, unless it is so.
func (c *cpus) use(cpu int, use bool) error {
	path := filepath.Join(c.sysfs, "cpu"+strconv.Itoa(cpu), "online")
	is, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if cpu == 0 {
			return nil // that one can be taken out nowhere any more
		}
		return fmt.Errorf("the kernel cannot start or stop processor %d while it runs (CONFIG_HOTPLUG_CPU)", cpu)
	}
	if err != nil {
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

// tellCgroups returns when containers may run on the processors that are in use. Kernels
// before 6.10 see to that some time later, but at the latest before they take the set of
// processors of any cgroup.
func (c *cpus) tellCgroups() {
	dir, err := os.MkdirTemp(c.cgroups, "cpus-")
	if err != nil {
		return // there are none, and nothing to be told
	}
	_ = os.WriteFile(filepath.Join(dir, "cpuset.cpus"), []byte("\n"), 0)
	_ = unix.Rmdir(dir)
}

// confine leaves in a container's set of processors those that the machine has. They
// need not be in use: the container is on those of them that are.
func (c *cpus) confine(r *specs.LinuxResources) error {
	if r == nil || r.CPU == nil || r.CPU.Cpus == "" {
		return nil
	}
	want, err := parseCPUs(r.CPU.Cpus)
	if err != nil {
		return err
	}
	present, err := c.list("present")
	if err != nil {
		return err
	}
	var have []string
	for cpu := range maxCPUs {
		if want.IsSet(cpu) && present.IsSet(cpu) {
			have = append(have, strconv.Itoa(cpu))
		}
	}
	if len(have) == 0 {
		return fmt.Errorf("the machine has none of processors %s: %w", r.CPU.Cpus, errdefs.ErrInvalidArgument)
	}
	r.CPU.Cpus = strings.Join(have, ",")
	return nil
}

// list reads one of the kernel's lists of processors.
func (c *cpus) list(name string) (*unix.CPUSet, error) {
	data, err := os.ReadFile(filepath.Join(c.sysfs, name))
	if err != nil {
		return nil, fmt.Errorf("listing the processors: %w", err)
	}
	return parseCPUs(strings.TrimSpace(string(data)))
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
