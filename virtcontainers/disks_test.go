package virtcontainers

import (
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// rules are those of a container that may use no device but what they add.
func rules(more ...specs.LinuxDeviceCgroup) func(*specs.Spec) {
	return func(s *specs.Spec) {
		none := specs.LinuxDeviceCgroup{Access: "rwm"}
		s.Linux.Resources = &specs.LinuxResources{Devices: append([]specs.LinuxDeviceCgroup{none}, more...)}
	}
}

func rule(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: access}
}

func everything() specs.LinuxDeviceCgroup { return specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"} }

func TestDisks(t *testing.T) {
	for name, c := range map[string]struct {
		rules  []specs.LinuxDeviceCgroup
		access string // none if it is left out
	}{
		"as asked":                       {[]specs.LinuxDeviceCgroup{rule(true, "b", 7, 3, "rwm")}, "rwm"},
		"read-only":                      {[]specs.LinuxDeviceCgroup{rule(true, "b", 7, 3, "rm")}, "rm"},
		"rules add up":                   {[]specs.LinuxDeviceCgroup{rule(true, "b", 7, 3, "r"), rule(true, "b", 7, 3, "w")}, "rw"},
		"and take away":                  {[]specs.LinuxDeviceCgroup{rule(true, "b", 7, 3, "rw"), rule(false, "b", 7, 3, "w")}, "r"},
		"any minor":                      {[]specs.LinuxDeviceCgroup{rule(true, "b", 7, -1, "r")}, "r"},
		"another's rules":                {[]specs.LinuxDeviceCgroup{rule(true, "b", 7, 4, "rw"), rule(true, "c", 7, 3, "rw")}, ""},
		"to make nodes alone":            {[]specs.LinuxDeviceCgroup{rule(true, "b", 7, 3, "m")}, ""},
		"no rule":                        {nil, ""},
		"of a privileged one, by name":   {[]specs.LinuxDeviceCgroup{everything(), rule(true, "b", 7, 3, "rwm")}, "rwm"},
		"of a privileged one, wholesale": {[]specs.LinuxDeviceCgroup{everything()}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			mode, uid, gid := os.ModeDevice|0o640, uint32(1), uint32(2)
			p := plan(t, newSpec(rules(c.rules...), func(s *specs.Spec) {
				s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/xvda", Type: "b", Major: 7, Minor: 3, FileMode: &mode, UID: &uid, GID: &gid}}
			}))
			if len(p.Guest.Linux.Devices) != 0 {
				t.Errorf("the guest has %+v", p.Guest.Linux.Devices)
			}
			if c.access == "" {
				if len(p.Disks) != 0 || len(p.Notes) != 1 {
					t.Errorf("got %+v, notes %q", p.Disks, p.Notes)
				}
				return
			}
			want := PlannedDisk{
				BlockDevice: BlockDevice{DeviceNumber: DeviceNumber{7, 3}, Mode: 0o640, UID: 1, GID: 2},
				Path:        "/dev/xvda", Access: c.access,
			}
			if !reflect.DeepEqual(p.Disks, []PlannedDisk{want}) {
				t.Errorf("got %+v, want %+v", p.Disks, want)
			}
			if slices.ContainsFunc(p.Guest.Linux.Resources.Devices, func(r specs.LinuxDeviceCgroup) bool {
				return r.Minor != nil && *r.Minor == 3
			}) {
				t.Errorf("the guest has a rule with the host's numbers: %+v", p.Guest.Linux.Resources.Devices)
			}
		})
	}
}

func TestDiskReadOnly(t *testing.T) {
	for access, want := range map[string]bool{"r": true, "rm": true, "rw": false, "w": false} {
		if got := (PlannedDisk{Access: access}).ReadOnly(); got != want {
			t.Errorf("%s: %v", access, got)
		}
	}
}

func TestDiskMounts(t *testing.T) {
	device := BlockDevice{DeviceNumber: DeviceNumber{7, 3}, Mode: 0o660}
	there := at
	there.BlockDevices = map[string]BlockDevice{"/dev/loop3": device, "/bundle/disk": device}
	s := newSpec(rules(rule(true, "b", 7, 3, "rw")), func(s *specs.Spec) {
		s.Mounts = []specs.Mount{
			{Destination: "/dev/a", Type: "bind", Source: "/dev/loop3", Options: []string{"rbind"}},
			{Destination: "/d", Type: "bind", Source: "/src", Options: []string{"bind"}},
			{Destination: "/dev/b", Type: "bind", Source: "disk", Options: []string{"bind", "ro"}},
			{Destination: "/dev/loop3", Type: "tmpfs", Source: "/dev/loop3"},
		}
	})
	if got, want := BindSources(s, at.Bundle), []string{"/dev/loop3", "/src", "/bundle/disk"}; !slices.Equal(got, want) {
		t.Errorf("the sources are %q, want %q", got, want)
	}
	p, err := NewPlan(s, there)
	if err != nil {
		t.Fatal(err)
	}
	want := []PlannedDisk{{device, "/dev/a", "rw"}, {device, "/dev/b", "r"}}
	if !reflect.DeepEqual(p.Disks, want) {
		t.Errorf("got %+v, want %+v", p.Disks, want)
	}
	if len(p.Guest.Mounts) != 2 || p.Guest.Mounts[0].Destination != "/d" || p.Guest.Mounts[1].Type != "tmpfs" {
		t.Errorf("the guest's mounts are %+v", p.Guest.Mounts)
	}
}

func TestDisksRefused(t *testing.T) {
	disk := func(path string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: path, Type: "b", Major: 7, Minor: 3}}
		}
	}
	for name, c := range map[string]struct {
		spec *specs.Spec
		is   func(error) bool
	}{
		"relative": {newSpec(disk("dev/x")), errdefs.IsInvalidArgument},
		"the root": {newSpec(disk("/dev/..")), errdefs.IsInvalidArgument},
		"a user namespace": {newSpec(disk("/dev/x"), func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace}}
		}), errdefs.IsNotImplemented},
	} {
		if _, err := NewPlan(c.spec, at); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
