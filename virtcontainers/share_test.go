package virtcontainers

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestNeedsShare(t *testing.T) {
	mount := func(m specs.Mount) *specs.Spec {
		return newSpec(func(s *specs.Spec) { s.Mounts = []specs.Mount{m} })
	}
	bind := func(source string, options ...string) *specs.Spec {
		return mount(specs.Mount{Destination: "/d", Type: "bind", Source: source, Options: append(options, "bind")})
	}
	const secret = "/pods/x/volumes/kubernetes.io~secret/s"
	onDisks := at
	onDisks.GuestRootfs, onDisks.GuestVolumes = "/guest/rootfs/c1", "/volumes/c1"
	onDisks.Sources = map[string]SourceKind{"/api.sock": SourceSocket, secret: SourceDirectory}
	onDisks.BlockDevices = map[string]BlockDevice{"/dev/sdb": {DeviceNumber: DeviceNumber{8, 16}}}
	pod := onDisks
	pod.Role, pod.Sandbox, pod.Etc = PodMember, "p1", map[string]string{"hosts": "/run/p1/hosts"}
	for name, c := range map[string]struct {
		spec *specs.Spec
		at   Placement
		want bool
	}{
		"nothing":               {newSpec(), onDisks, false},
		"root in the share":     {newSpec(), at, true},
		"the guest's own":       {mount(specs.Mount{Destination: "/proc", Type: "proc", Source: "proc"}), onDisks, false},
		"the guest's own, bind": {bind("/dev/log"), onDisks, false},
		"a file":                {bind("/etc/resolv.conf", "ro"), onDisks, true},
		"a directory":           {bind("/srv"), onDisks, true},
		"a socket":              {bind("/api.sock"), onDisks, false},
		"a secret":              {bind(secret, "ro"), onDisks, false},
		"a block device":        {bind("/dev/sdb"), onDisks, false},
		"a host's file system":  {mount(specs.Mount{Destination: "/d", Type: "nfs", Source: "server:/"}), onDisks, true},
		"files of the pod":      {newSpec(), pod, true},
		"a hook of the guest": {newSpec(func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/hook"}}}
		}), onDisks, true},
		"a hook of the host": {newSpec(func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/hook"}}}
		}), onDisks, false},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := NewPlan(c.spec, c.at)
			if err != nil {
				t.Fatal(err)
			}
			if p.NeedsShare() != c.want {
				t.Errorf("got %v; on the host are mounted %+v", p.NeedsShare(), p.Mounts)
			}
			want := "/guest/c1/rootfs"
			if c.at.GuestRootfs != "" {
				want = c.at.GuestRootfs
			}
			if p.Guest.Root.Path != want {
				t.Errorf("the root is at %s, want %s", p.Guest.Root.Path, want)
			}
		})
	}
}
