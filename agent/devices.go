package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // installs the device filter
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ordinaryDevices is libcontainer's way to have a cgroup's processes use the devices of
// its rules only: it writes a program for the rules and has the kernel check and compile
// it.
var ordinaryDevices = cgroups.DevicesSetV2

// deviceFilter filters as libcontainer does, but for the rules that most containers have
// it attaches programs that were made before: in a template, so that no clone has to.
// The zero value has none.
type deviceFilter struct {
	usual atomic.Pointer[[]deviceProgram]
}

// deviceProgram is a program of the kernel's, and the rules that it was made of.
type deviceProgram struct {
	rules []devices.Rule
	fd    int // for good
}

// install has libcontainer use the filter.
func (f *deviceFilter) install() { cgroups.DevicesSetV2 = f.set }

// set has the processes of a cgroup use what the rules of r allow, and no other device.
func (f *deviceFilter) set(dir string, r *cgroups.Resources) error {
	usual := f.find(r)
	if usual == nil {
		return ordinaryDevices(dir, r)
	}
	err := usual.attach(dir)
	if errors.Is(err, unix.EINVAL) {
		// It may be there already. Programs that are there are looked for the
		// ordinary way, and replaced.
		return ordinaryDevices(dir, r)
	}
	if err != nil {
		return fmt.Errorf("attaching the device filter to cgroup %s: %w", dir, err)
	}
	return nil
}

// find gives the program for the rules of r, or nil if none was made.
func (f *deviceFilter) find(r *cgroups.Resources) *deviceProgram {
	all := f.usual.Load()
	if all == nil || r.SkipDevices {
		return nil
	}
	rules := rulesOf(r)
	for i, p := range *all {
		if slices.Equal(p.rules, rules) {
			return &(*all)[i]
		}
	}
	return nil
}

func rulesOf(r *cgroups.Resources) []devices.Rule {
	rules := make([]devices.Rule, len(r.Devices))
	for i, rule := range r.Devices {
		rules[i] = *rule
	}
	return rules
}

// prepare makes the programs for the rules that containers have unless they ask for more.
func (f *deviceFilter) prepare() error {
	if f.usual.Load() != nil {
		return nil
	}
	var all []deviceProgram
	for _, rules := range usualDevices() {
		p, err := makeProgram(rules)
		if err != nil {
			return fmt.Errorf("preparing a device filter: %w", err)
		}
		all = append(all, p)
	}
	f.usual.Store(&all)
	return nil
}

// usualDevices are the rules of OCI configurations that are usual: no device but those that
// every container has; and of ctr, which names most of these once more, and the console.
func usualDevices() [][]specs.LinuxDeviceCgroup {
	none := specs.LinuxDeviceCgroup{Allow: false, Access: "rwm"}
	character := func(major int64, minor *int64) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: minor, Access: "rwm"}
	}
	named := []specs.LinuxDeviceCgroup{none}
	for _, d := range [][2]int64{{1, 3}, {1, 8}, {1, 7}, {5, 0}, {1, 5}, {1, 9}, {5, 1}} {
		named = append(named, character(d[0], &d[1]))
	}
	ptmx := int64(2)
	named = append(named, character(136, nil), character(5, &ptmx))
	return [][]specs.LinuxDeviceCgroup{{none}, named}
}

// makeProgram has the kernel make a program for the rules of an OCI configuration.
func makeProgram(list []specs.LinuxDeviceCgroup) (_ deviceProgram, err error) {
	config, err := containerConfig("usual", &specs.Spec{
		Root:  &specs.Root{Path: "/"},
		Linux: &specs.Linux{CgroupsPath: "/usual", Resources: &specs.LinuxResources{Devices: list}},
	})
	if err != nil {
		return deviceProgram{}, err
	}
	// libcontainer attaches what it makes. So there is a cgroup to attach it to, and to
	// take it from.
	dir, err := os.MkdirTemp(cgroupRoot, "devices")
	if err != nil {
		return deviceProgram{}, err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	resources := config.Cgroups.Resources
	if err := ordinaryDevices(dir, resources); err != nil {
		return deviceProgram{}, err
	}
	fd, err := attachedProgram(dir)
	return deviceProgram{rules: rulesOf(resources), fd: fd}, err
}

// attachedProgram opens the one program of a cgroup.
func attachedProgram(dir string) (fd int, err error) {
	cgroup, err := openCgroup(dir)
	if err != nil {
		return -1, err
	}
	defer unix.Close(cgroup)
	id := new(uint32)
	var pinned runtime.Pinner // or the runtime may move what only a number tells of
	pinned.Pin(id)
	defer pinned.Unpin()
	query := struct {
		target, attachType, flags, attachFlags uint32
		ids                                    uint64 // a pointer
		count                                  uint32
		_                                      uint32
	}{target: uint32(cgroup), attachType: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(id))), count: 1}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query)); err != nil {
		return -1, fmt.Errorf("looking for the program of %s: %w", dir, err)
	}
	if query.count != 1 {
		return -1, fmt.Errorf("%s has %d programs", dir, query.count)
	}
	return bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(id), unsafe.Sizeof(*id))
}

// attach has the program filter for a cgroup. unix.EINVAL if it does already.
func (p *deviceProgram) attach(dir string) error {
	cgroup, err := openCgroup(dir)
	if err != nil {
		return err
	}
	defer unix.Close(cgroup)
	request := struct{ target, program, attachType, flags uint32 }{
		uint32(cgroup), uint32(p.fd), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI,
	}
	_, err = bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&request), unsafe.Sizeof(request))
	return err
}

func openCgroup(dir string) (int, error) {
	fd, err := unix.Open(filepath.Clean(dir), unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

func bpf(command uintptr, attributes unsafe.Pointer, size uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attributes), size)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
