package virtcontainers

import (
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestOwner(t *testing.T) {
	ids := &IDMap{
		UIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100, Size: 2}, {ContainerID: 10, HostID: 4294967290, Size: 5}},
		GIDs: []specs.LinuxIDMapping{{ContainerID: 5, HostID: 0, Size: 1}},
	}
	for in, want := range map[[2]uint32][2]uint32{
		{0, 5}: {100, 0}, {1, 4}: {101, 65534}, {2, 6}: {65534, 65534}, {14, 5}: {4294967294, 0}, {15, 5}: {65534, 0},
	} {
		if uid, gid := ids.Owner(in[0], in[1]); uid != want[0] || gid != want[1] {
			t.Errorf("%v becomes %d:%d, want %v", in, uid, gid, want)
		}
	}
	if uid, gid := (*IDMap)(nil).Owner(1, 2); uid != 1 || gid != 2 {
		t.Errorf("without a mapping it is %d:%d", uid, gid)
	}
}

func TestPlanOfMappedMounts(t *testing.T) {
	ids := []specs.LinuxIDMapping{{HostID: 1000, Size: 100}}
	mapped := func(destination, kind, source string, options ...string) *specs.Spec {
		return newSpec(func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: destination, Type: kind, Source: source, Options: options, UIDMappings: ids, GIDMappings: ids}}
		})
	}
	p := plan(t, mapped("/d", "bind", "/src", "rbind", "ridmap", "ro"))
	guest, host := p.Guest.Mounts[0], p.Mounts[1]
	if len(guest.UIDMappings)+len(guest.GIDMappings) != 0 || !slices.Equal(guest.Options, []string{"rbind", "ro"}) {
		t.Errorf("the guest mounts %+v", guest)
	}
	if host.IDs.IsZero() || !host.IDs.Recursive || !slices.Equal(host.IDs.UIDs, ids) || !slices.Equal(host.IDs.GIDs, ids) {
		t.Errorf("the host mounts %+v", host)
	}

	for name, s := range map[string]*specs.Spec{
		"of the guest":     mapped("/d", "tmpfs", "tmpfs"),
		"a guest's tree":   mapped("/d", "bind", "/sys/fs", "rbind"),
		"made by the host": mapped("/d", "overlay", "overlay", "lowerdir=/a"),
	} {
		if _, err := NewPlan(s, at); !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	half := mapped("/d", "bind", "/src", "rbind")
	half.Mounts[0].GIDMappings = nil
	if _, err := NewPlan(half, at); !errdefs.IsInvalidArgument(err) {
		t.Errorf("half of a mapping: %v", err)
	}
}
