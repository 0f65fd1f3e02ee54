package virtcontainers

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var at = Placement{ID: "c1", Bundle: "/bundle", GuestDir: "/guest/c1"}

// newSpec is the least that can be planned, changed by with.
func newSpec(with ...func(*specs.Spec)) *specs.Spec {
	s := &specs.Spec{
		Process: &specs.Process{Args: []string{"true"}, Cwd: "/"},
		Root:    &specs.Root{Path: "rootfs"},
		Linux:   &specs.Linux{},
	}
	for _, change := range with {
		change(s)
	}
	return s
}

func plan(t *testing.T, s *specs.Spec) *Plan {
	t.Helper()
	p, err := NewPlan(s, at)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlanLeavesItsInputAlone(t *testing.T) {
	s := newSpec(func(s *specs.Spec) {
		s.Mounts = []specs.Mount{{Destination: "/d", Type: "bind", Source: "/src", Options: []string{"bind"}}}
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/hook"}}}
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/run/netns/x"}}
	})
	before, _ := json.Marshal(s)
	plan(t, s)
	if after, _ := json.Marshal(s); string(before) != string(after) {
		t.Errorf("changed\n%s to\n%s", before, after)
	}
}

func TestPlanRefusesWhatItCannotRun(t *testing.T) {
	for name, c := range map[string]struct {
		spec *specs.Spec
		kind error
		says string
	}{
		"no process":   {newSpec(func(s *specs.Spec) { s.Process = nil }), errdefs.ErrInvalidArgument, "process"},
		"no args":      {newSpec(func(s *specs.Spec) { s.Process.Args = nil }), errdefs.ErrInvalidArgument, "process.args"},
		"no root":      {newSpec(func(s *specs.Spec) { s.Root = nil }), errdefs.ErrInvalidArgument, "root.path"},
		"no linux":     {newSpec(func(s *specs.Spec) { s.Linux = nil }), errdefs.ErrInvalidArgument, "linux"},
		"intelRdt":     {newSpec(func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} }), errdefs.ErrNotImplemented, "intelRdt"},
		"a host's GPU": {newSpec(device("c", 195, 0)), errdefs.ErrNotImplemented, "/dev/x"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewPlan(c.spec, at)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want a %v about %q", err, c.kind, c.says)
			}
		})
	}
}

func device(kind string, major, minor int64) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: kind, Major: major, Minor: minor}}
	}
}

func TestDevices(t *testing.T) {
	if p := plan(t, newSpec(device("c", 10, 229))); len(p.Guest.Linux.Devices) != 1 {
		t.Error("fuse was left out")
	}
	p := plan(t, newSpec(device("b", 8, 0), func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}}
	}))
	if len(p.Guest.Linux.Devices) != 0 || len(p.Notes) != 1 {
		t.Errorf("a privileged container got %v, notes %q", p.Guest.Linux.Devices, p.Notes)
	}
}

func TestRootfs(t *testing.T) {
	for path, source := range map[string]string{"rootfs": "/bundle/rootfs", "/elsewhere": "/elsewhere"} {
		for _, readonly := range []bool{false, true} {
			p := plan(t, newSpec(func(s *specs.Spec) { s.Root = &specs.Root{Path: path, Readonly: readonly} }))
			want := HostMount{Type: "bind", Source: source, Options: []string{"rbind"}, Target: "rootfs"}
			if !reflect.DeepEqual(p.Mounts, []HostMount{want}) {
				t.Errorf("%s: host mounts %+v, want %+v", path, p.Mounts, want)
			}
			if *p.Guest.Root != (specs.Root{Path: "/guest/c1/rootfs", Readonly: readonly}) {
				t.Errorf("%s: guest root %+v", path, p.Guest.Root)
			}
		}
	}
}

func TestMounts(t *testing.T) {
	for name, c := range map[string]struct {
		mount specs.Mount
		host  *HostMount
		guest specs.Mount
	}{
		"the guest's own": {
			mount: specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}},
			guest: specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}},
		},
		"bind": {
			mount: specs.Mount{Destination: "/d", Type: "bind", Source: "/src", Options: []string{"rbind", "rw", "rslave"}},
			host:  &HostMount{Type: "bind", Source: "/src", Options: []string{"rbind"}, Target: "mounts/0"},
			guest: specs.Mount{Destination: "/d", Type: "bind", Source: "/guest/c1/mounts/0", Options: []string{"rbind", "rw", "rslave"}},
		},
		"bind by option alone, read-only, relative to the bundle": {
			mount: specs.Mount{Destination: "/d", Source: "data", Options: []string{"bind", "ro"}},
			host:  &HostMount{Type: "bind", Source: "/bundle/data", Options: []string{"bind"}, Target: "mounts/0", ReadOnly: true},
			guest: specs.Mount{Destination: "/d", Type: "bind", Source: "/guest/c1/mounts/0", Options: []string{"bind", "ro"}},
		},
		"the last of ro and rw counts": {
			mount: specs.Mount{Destination: "/d", Type: "bind", Source: "/s", Options: []string{"bind", "ro", "rw"}},
			host:  &HostMount{Type: "bind", Source: "/s", Options: []string{"bind"}, Target: "mounts/0"},
			guest: specs.Mount{Destination: "/d", Type: "bind", Source: "/guest/c1/mounts/0", Options: []string{"bind", "ro", "rw"}},
		},
		"private": {
			mount: specs.Mount{Destination: "/d", Type: "bind", Source: "/src", Options: []string{"rbind", "rprivate"}},
			host:  &HostMount{Type: "bind", Source: "/src", Options: []string{"rbind"}, Target: "mounts/0", Private: true},
			guest: specs.Mount{Destination: "/d", Type: "bind", Source: "/guest/c1/mounts/0", Options: []string{"rbind", "rprivate"}},
		},
		"a host's kernel tree": {
			mount: specs.Mount{Destination: "/host/sys", Type: "bind", Source: "/sys/fs/bpf", Options: []string{"bind"}},
			guest: specs.Mount{Destination: "/host/sys", Type: "bind", Source: "/sys/fs/bpf", Options: []string{"bind"}},
		},
		"another file system": {
			mount: specs.Mount{Destination: "/o", Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a", "ro", "rprivate"}},
			host:  &HostMount{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a", "ro"}, Target: "mounts/0", ReadOnly: true},
			guest: specs.Mount{Destination: "/o", Type: "bind", Source: "/guest/c1/mounts/0", Options: []string{"bind", "rprivate", "ro"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan(t, newSpec(func(s *specs.Spec) { s.Mounts = []specs.Mount{c.mount} }))
			if !reflect.DeepEqual(p.Guest.Mounts[0], c.guest) {
				t.Errorf("guest %+v\nwant  %+v", p.Guest.Mounts[0], c.guest)
			}
			var want []HostMount
			if c.host != nil {
				want = []HostMount{*c.host}
			}
			if got := p.Mounts[1:]; !slices.EqualFunc(got, want, func(a, b HostMount) bool { return reflect.DeepEqual(a, b) }) {
				t.Errorf("host %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestNoNamespaceOfTheHostReachesTheGuest(t *testing.T) {
	p := plan(t, newSpec(func(s *specs.Spec) {
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"}}
	}))
	want := []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace}}
	if !slices.Equal(p.Guest.Linux.Namespaces, want) || len(p.Notes) != 1 {
		t.Errorf("namespaces %+v, notes %q", p.Guest.Linux.Namespaces, p.Notes)
	}
}

func TestHooksGoWhereTheyBelong(t *testing.T) {
	hook := func(path string) []specs.Hook { return []specs.Hook{{Path: path}} }
	p := plan(t, newSpec(func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{
			//lint:ignore SA1019 many tools still write it
			Prestart:        hook("/prestart"),
			CreateRuntime:   hook("/createRuntime"),
			CreateContainer: hook("/createContainer"),
			StartContainer:  hook("/startContainer"),
			Poststart:       hook("/poststart"),
			Poststop:        hook("/poststop"),
		}
	}))
	want := HostHooks{
		Created: append(hook("/prestart"), hook("/createRuntime")...),
		Started: hook("/poststart"),
		Stopped: hook("/poststop"),
	}
	if !reflect.DeepEqual(p.Hooks, want) {
		t.Errorf("host %+v", p.Hooks)
	}
	timeout := int(DefaultHookTimeout.Seconds())
	guest := &specs.Hooks{
		CreateContainer: []specs.Hook{{Path: "/guest/c1/hooks/0", Args: []string{"/createContainer"}, Timeout: &timeout}},
		StartContainer:  hook("/startContainer"),
	}
	if !reflect.DeepEqual(p.Guest.Hooks, guest) {
		t.Errorf("guest %+v", p.Guest.Hooks)
	}
	if m := p.Mounts[1]; m.Source != "/createContainer" || !m.ReadOnly {
		t.Errorf("the hook's program is shared as %+v", m)
	}
}

func TestSizeFor(t *testing.T) {
	const mib = 1 << 20
	base, most := Size{256, 1}, Size{4096, 4}
	memory := func(limit int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	}
	cpu := func(quota int64, period uint64) *specs.LinuxResources {
		return &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}
	}
	for name, c := range map[string]struct {
		r    *specs.LinuxResources
		want Size
	}{
		"none":                    {nil, base},
		"small":                   {memory(64 * mib), base},
		"large":                   {memory(1024 * mib), Size{1024 + guestReserve(1024), 1}},
		"a byte more than a MiB":  {memory(1024*mib + 1), Size{1025 + guestReserve(1025), 1}},
		"unlimited":               {memory(-1), base},
		"as large as can be":      {memory(1<<63 - 4096), base},
		"one and a half CPUs":     {cpu(150000, 100000), Size{256, 2}},
		"more CPUs than there be": {cpu(1<<40, 1000), Size{256, 4}},
		"no quota":                {cpu(-1, 100000), base},
		"no period":               {cpu(100000, 0), base},
	} {
		if got, err := SizeFor(base, most, c.r); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	_, err := SizeFor(base, most, memory(4096*mib))
	if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "3938 MiB") {
		t.Errorf("a limit that cannot hold: %v", err)
	}
}

func TestSizeForAPod(t *testing.T) {
	container := func(mib, quota int64) *specs.LinuxResources {
		limit, period := mib<<20, uint64(100000)
		return &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &limit},
			CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period},
		}
	}
	base, most := Size{256, 1}, Size{1024, 4}
	got, err := SizeFor(base, most, container(300, 100000), nil, container(500, 150000), &specs.LinuxResources{})
	if want := (Size{800 + 96 + 12, 3}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	_, err = SizeFor(base, most, container(500, 0), container(500, 0))
	if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "1000 MiB, in all") || !strings.Contains(err.Error(), "913 MiB") {
		t.Errorf("limits that cannot hold together: %v", err)
	}
}

// TestMostLimits checks that what a refusal advises is accepted.
func TestMostLimits(t *testing.T) {
	for _, size := range []uint64{0, 64, 96, 97, 256, 768, 1023, 4096, 1 << 20} {
		limit := mostLimits(size)
		if need := limit + guestReserve(limit); limit > 0 && need > size {
			t.Errorf("limits of %d MiB need %d of %d", limit, need, size)
		}
	}
}

func TestChangedLimits(t *testing.T) {
	limit, other, quota, period := int64(1), int64(2), int64(3), uint64(4)
	now := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}
	for name, c := range map[string]struct {
		now, update *specs.LinuxResources
		memory, cpu bool
		limit       int64
	}{
		"nothing":        {nil, nil, false, false, 0},
		"nothing before": {nil, now, true, true, 1},
		"nothing new":    {now, &specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}}, true, true, 1},
		"memory":         {now, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &other}}, true, true, 2},
	} {
		got := ChangedLimits(c.now, c.update)
		if (got.Memory != nil) != c.memory || (got.CPU != nil) != c.cpu || c.memory && *got.Memory.Limit != c.limit || c.cpu && *got.CPU.Quota != quota {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestGuestResourcesDropsTheHostsHardware(t *testing.T) {
	weight := uint16(100)
	shares := uint64(512)
	r := &specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Cpus: "3", Mems: "1", Shares: &shares},
		BlockIO: &specs.LinuxBlockIO{Weight: &weight, ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{Rate: 1}}},
		Network: &specs.LinuxNetwork{},
		Rdma:    map[string]specs.LinuxRdma{"mlx": {}},
	}
	notes, err := GuestResources(r, Alone)
	want := &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Shares: &shares}}
	if err != nil || !reflect.DeepEqual(r, want) || len(notes) != 5 {
		t.Errorf("%+v, notes %q, %v", r, notes, err)
	}
}
