package agent

import (
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestUsualDevices: what clients of containerd ask for has a program ahead of time, and
// nothing else is taken for it.
func TestUsualDevices(t *testing.T) {
	var filter deviceFilter
	var all []deviceProgram
	for i, rules := range usualDevices() {
		all = append(all, deviceProgram{rules: rulesOf(resourcesOf(t, &specs.LinuxResources{Devices: rules})), fd: i})
	}
	if found := filter.find(resourcesOf(t, usualResources(t))); found != nil {
		t.Errorf("a filter without programs has %+v", found)
	}
	filter.usual.Store(&all)

	ctrs := &specs.Spec{Linux: &specs.Linux{Resources: usualResources(t)}}
	if err := oci.WithDefaultUnixDevices(t.Context(), nil, nil, ctrs); err != nil {
		t.Fatal(err)
	}
	every := &specs.Spec{Linux: &specs.Linux{Resources: usualResources(t)}}
	if err := oci.WithAllDevicesAllowed(t.Context(), nil, nil, every); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		from *specs.LinuxResources
		want int // -1 for none
	}{
		{"containerd's default", usualResources(t), 0},
		{"ctr's", ctrs.Linux.Resources, 1},
		{"all devices", every.Linux.Resources, -1},
		{"no rules", &specs.LinuxResources{}, -1},
	} {
		found := filter.find(resourcesOf(t, c.from))
		if got := slices.IndexFunc(all, func(p deviceProgram) bool { return found != nil && p.fd == found.fd }); got != c.want {
			t.Errorf("%s: program %d, want %d", c.name, got, c.want)
		}
	}
	skip := resourcesOf(t, usualResources(t))
	skip.SkipDevices = true
	if found := filter.find(skip); found != nil {
		t.Errorf("limits without rules of devices have %+v", found)
	}
}

// usualResources are as containerd's default configuration has them.
func usualResources(t *testing.T) *specs.LinuxResources {
	t.Helper()
	spec, err := oci.GenerateSpec(namespaces.WithNamespace(t.Context(), "default"), nil, &containers.Container{ID: "usual"})
	if err != nil {
		t.Fatal(err)
	}
	return spec.Linux.Resources
}

func resourcesOf(t *testing.T, r *specs.LinuxResources) *cgroups.Resources {
	t.Helper()
	config, err := containerConfig("usual", &specs.Spec{
		Root: &specs.Root{Path: "/"}, Linux: &specs.Linux{CgroupsPath: "/usual", Resources: r},
	})
	if err != nil {
		t.Fatal(err)
	}
	return config.Cgroups.Resources
}
