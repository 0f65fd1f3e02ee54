package agent

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/agent/reexec"
)

// blueprintOfSpec is what becomes of a configuration that a test has changed, and of what
// libcontainer makes of it.
func blueprintOfSpec(t *testing.T, change func(*specs.Spec), then func(*configs.Config, *libcontainer.Process)) (*reexec.Build, error) {
	t.Helper()
	spec := testSpec("id", "true")
	spec.Process.Capabilities = &specs.LinuxCapabilities{}
	change(spec)
	config, err := containerConfig("id", spec)
	if err != nil {
		t.Fatal(err)
	}
	lp, err := libcontainerProcess(spec.Process)
	if err != nil {
		t.Fatal(err)
	}
	then(config, lp)
	return blueprintOf("id", config, lp, knownCapabilities{})
}

func TestBlueprintOf(t *testing.T) {
	b, err := blueprintOfSpec(t, func(s *specs.Spec) {
		s.Linux.MaskedPaths = []string{"/a", "/a/", "/b"}
		s.Linux.Sysctl = map[string]string{"net.ipv4.tcp_syncookies": "1"}
		s.Mounts = s.Mounts[:2]
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/v/", Type: "bind", Source: "/s", Options: []string{"rbind", "rslave", "ro"}},
			specs.Mount{Destination: "/w", Type: "bind", Source: "/s", Options: []string{"bind"}},
			specs.Mount{Destination: "/t", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro", "size=1m", "mode=700"}},
			specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})
	}, func(*configs.Config, *libcontainer.Process) {})
	if err != nil {
		t.Fatal(err)
	}
	want := []reexec.BuildMount{
		{Source: "proc", Target: "/proc", Type: "proc", Flags: unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV, NoLinks: true},
		{Source: "tmpfs", Target: "/dev", Type: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_STRICTATIME, Data: "mode=755,size=65536k", TargetsMode: true},
		{Source: "/s", Target: "/v", Flags: unix.MS_BIND | unix.MS_REC | unix.MS_RDONLY, Propagation: unix.MS_SLAVE | unix.MS_REC, Bind: true, Attributes: true},
		{Source: "/s", Target: "/w", Flags: unix.MS_BIND, Bind: true},
		{Source: "tmpfs", Target: "/t", Type: "tmpfs", Data: "size=1m,mode=700", ReadonlyLater: true, TargetsMode: true},
		{Source: "cgroup", Target: "/sys/fs/cgroup", Type: "cgroup2", Flags: unix.MS_RDONLY},
	}
	if !reflect.DeepEqual(b.Mounts, want) {
		t.Errorf("mounts %+v, want %+v", b.Mounts, want)
	}
	if want := []string{"/a", "/b"}; !slices.Equal(b.MaskedPaths, want) {
		t.Errorf("masked %q, want %q", b.MaskedPaths, want)
	}
	if want := []reexec.BuildSysctl{{Name: "net/ipv4/tcp_syncookies", Value: "1"}}; !slices.Equal(b.Sysctls, want) {
		t.Errorf("sysctls %q, want %q", b.Sysctls, want)
	}
	if !b.Nodes || !b.Loopback || b.JoinPIDs || b.Rootfs != guestRootfs || b.Hostname != "ctr-id" || len(b.Devices) != 6 {
		t.Errorf("%+v", b)
	}
	const namespaces = unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
	if b.Namespaces != namespaces {
		t.Errorf("namespaces %#x, want %#x", b.Namespaces, namespaces)
	}
}

// TestBlueprintOfUnusual: the usher is asked for nothing that it does not know.
func TestBlueprintOfUnusual(t *testing.T) {
	mount := func(m specs.Mount) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) }
	}
	device := func(d specs.LinuxDevice) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Devices = append(s.Linux.Devices, d) }
	}
	join := func(kind specs.LinuxNamespaceType) func(*specs.Spec) {
		return func(s *specs.Spec) {
			for i := range s.Linux.Namespaces {
				if s.Linux.Namespaces[i].Type == kind {
					s.Linux.Namespaces[i].Path = "/proc/1/ns/x"
				}
			}
		}
	}
	setuid := os.FileMode(0o4755)
	for name, change := range map[string]func(*specs.Spec){
		"no mount namespace": func(s *specs.Spec) { s.Linux.Namespaces = slices.Delete(s.Linux.Namespaces, 3, 4) },
		"another's mounts":   join(specs.MountNamespace),
		"another's network":  join(specs.NetworkNamespace),
		"another's IPC":      join(specs.IPCNamespace),
		"another's names":    join(specs.UTSNamespace),
		"another's cgroup":   join(specs.CgroupNamespace),
		"a clock": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "time"})
		},
		"a personality": leaveToLibcontainer,
		"a filter":      func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow} },
		"a hook":        func(s *specs.Spec) { s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/true"}}} },
		"the last hook": func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/true"}}} },
		"a shared root": func(s *specs.Spec) { s.Linux.RootfsPropagation = "rshared" },
		"a domain's name that is set twice": func(s *specs.Spec) {
			s.Domainname, s.Linux.Sysctl = "a", map[string]string{"kernel.domainname": "b"}
		},
		"a tmpfs of no mode on what is not there": mount(specs.Mount{Destination: "/nowhere", Type: "tmpfs"}),
		"a bind without the option":               mount(specs.Mount{Destination: "/x", Type: "bind", Source: "/"}),
		"an unbindable root":                      func(s *specs.Spec) { s.Linux.RootfsPropagation = "unbindable" },
		"a relative directory":                    func(s *specs.Spec) { s.Process.Cwd = "tmp" },
		"a directory that is not clean":           func(s *specs.Spec) { s.Process.Cwd = "/../tmp" },
		"a relative mask":                         func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"proc"} },
		"the guest's root":                        func(s *specs.Spec) { s.Root.Path = "/" },
		"a mount on the root":                     mount(specs.Mount{Destination: "/", Type: "tmpfs"}),
		"a mount at the root's path":              mount(specs.Mount{Destination: guestRootfs + "/x", Type: "tmpfs"}),
		"a mount on /proc":                        mount(specs.Mount{Destination: "/x/../proc", Type: "tmpfs"}),
		"a bind on /proc":                         mount(specs.Mount{Destination: "/proc", Type: "bind", Source: "/proc", Options: []string{"bind"}}),
		"a mount in /proc":                        mount(specs.Mount{Destination: "/proc/sys", Type: "tmpfs"}),
		"a relative target":                       mount(specs.Mount{Destination: "x", Type: "tmpfs"}),
		"another file system":                     mount(specs.Mount{Destination: "/x", Type: "overlay"}),
		"a mount again":                           mount(specs.Mount{Destination: "/x", Type: "bind", Source: "/", Options: []string{"bind", "remount"}}),
		"a copy":                                  mount(specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"tmpcopyup"}}),
		"recursive attributes":                    mount(specs.Mount{Destination: "/x", Type: "bind", Source: "/", Options: []string{"rbind", "rro"}}),
		"an unbindable mount":                     mount(specs.Mount{Destination: "/x", Type: "bind", Source: "/", Options: []string{"rbind", "unbindable"}}),
		"two kinds of propagation":                mount(specs.Mount{Destination: "/x", Type: "bind", Source: "/", Options: []string{"rbind", "slave", "shared"}}),
		"other users' files": mount(specs.Mount{
			Destination: "/x", Type: "bind", Source: "/", Options: []string{"rbind", "idmap"},
			UIDMappings: []specs.LinuxIDMapping{{Size: 1}}, GIDMappings: []specs.LinuxIDMapping{{Size: 1}},
		}),
		"a device with more than a mode":    device(specs.LinuxDevice{Path: "/dev/x", Type: "c", FileMode: &setuid}),
		"a device at a path without an end": device(specs.LinuxDevice{Path: "/dev/../dev/x", Type: "c"}),
		"a sysctl out of its directory":     func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net../x": "1"} },
	} {
		if b, err := blueprintOfSpec(t, change, func(*configs.Config, *libcontainer.Process) {}); !errors.Is(err, errUnusual) {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
	for name, change := range map[string]func(*configs.Config, *libcontainer.Process){
		"rootless": func(c *configs.Config, _ *libcontainer.Process) { c.RootlessEUID = true },
		"a label":  func(c *configs.Config, _ *libcontainer.Process) { c.MountLabel = "x" },
		"a route":  func(c *configs.Config, _ *libcontainer.Process) { c.Routes = []*configs.Route{{}} },
		"a card": func(c *configs.Config, _ *libcontainer.Process) {
			c.NetDevices = map[string]*configs.LinuxNetDevice{"x": {}}
		},
		"a pair of cards":          func(c *configs.Config, _ *libcontainer.Process) { c.Networks = []*configs.Network{{Type: "veth"}} },
		"an end with its parent":   func(c *configs.Config, _ *libcontainer.Process) { c.ParentDeathSignal = 9 },
		"no change of the root":    func(c *configs.Config, _ *libcontainer.Process) { c.NoPivotRoot = true },
		"a terminal":               func(_ *configs.Config, p *libcontainer.Process) { p.ConsoleSocket = os.Stdin },
		"cache of the processor's": func(c *configs.Config, _ *libcontainer.Process) { c.IntelRdt = &configs.IntelRdt{} },
	} {
		if b, err := blueprintOfSpec(t, func(*specs.Spec) {}, change); !errors.Is(err, errUnusual) {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
}
