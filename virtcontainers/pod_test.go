package virtcontainers

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func namespaces(list ...specs.LinuxNamespace) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Namespaces = list }
}

// TestPodNamespaces plans containers in each role.
func TestPodNamespaces(t *testing.T) {
	ns := func(kind specs.LinuxNamespaceType, path string) specs.LinuxNamespace {
		return specs.LinuxNamespace{Type: kind, Path: path}
	}
	own := []specs.LinuxNamespace{ns("pid", ""), ns("ipc", ""), ns("uts", ""), ns("mount", ""), ns("network", "")}
	for name, c := range map[string]struct {
		at         Placement
		has, wants []specs.LinuxNamespace
		netNS      string
	}{
		"first, alone":       {Placement{First: true}, own, []specs.LinuxNamespace{ns("pid", ""), ns("ipc", ""), ns("uts", ""), ns("mount", "")}, ""},
		"later, alone":       {Placement{}, own, own, ""},
		"first, given a net": {Placement{First: true}, []specs.LinuxNamespace{ns("network", "/run/netns/a")}, nil, "/run/netns/a"},
		"later, given a net": {Placement{}, []specs.LinuxNamespace{ns("network", "/run/netns/a")}, []specs.LinuxNamespace{ns("network", "")}, ""},
		"pod": {
			Placement{First: true, Role: PodSandbox},
			[]specs.LinuxNamespace{ns("pid", ""), ns("ipc", ""), ns("uts", ""), ns("mount", ""), ns("network", "/run/netns/p")},
			[]specs.LinuxNamespace{ns("pid", ""), ns("mount", "")}, "/run/netns/p",
		},
		"member": {
			Placement{Role: PodMember, Sandbox: "pod"},
			[]specs.LinuxNamespace{ns("pid", ""), ns("ipc", "/proc/7/ns/ipc"), ns("uts", "/proc/7/ns/uts"), ns("mount", ""), ns("network", "/proc/7/ns/net")},
			[]specs.LinuxNamespace{ns("pid", ""), ns("mount", "")}, "",
		},
		"member that shares processes which no pause container holds": {
			Placement{Role: PodMember, Sandbox: "pod", NoPause: true},
			[]specs.LinuxNamespace{ns("pid", "/proc/7/ns/pid")}, []specs.LinuxNamespace{ns("pid", "pod")}, "",
		},
		"member that shares processes": {
			Placement{Role: PodMember, Sandbox: "pod"},
			[]specs.LinuxNamespace{ns("pid", "/proc/7/ns/pid")}, []specs.LinuxNamespace{ns("pid", "container:pod")}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := NewPlan(newSpec(namespaces(c.has...)), c.at)
			if err != nil {
				t.Fatal(err)
			}
			// Each has cgroups of its own as well.
			c.wants = append(slices.Clone(c.wants), ns("cgroup", ""))
			if !slices.Equal(p.Guest.Linux.Namespaces, c.wants) || p.Pod.NetNS != c.netNS {
				t.Errorf("has %+v and %q, want %+v and %q", p.Guest.Linux.Namespaces, p.Pod.NetNS, c.wants, c.netNS)
			}
		})
	}
}

func TestPodNamesAreTheGuests(t *testing.T) {
	spec := newSpec(namespaces(specs.LinuxNamespace{Type: "pid"}, specs.LinuxNamespace{Type: "ipc"}, specs.LinuxNamespace{Type: "uts"}), func(s *specs.Spec) {
		s.Hostname = "web-0"
		s.Linux.Sysctl = map[string]string{"kernel.shmmax": "1", "net.ipv4.ip_forward": "1"}
		s.Mounts = []specs.Mount{{Destination: "/dev/shm", Type: "bind", Source: "/run/x/sandboxes/pod/shm", Options: []string{"rbind"}}}
	})
	p, err := NewPlan(spec, Placement{First: true, Role: PodSandbox, Sandbox: "pod", GuestSHM: "/guest/shm"})
	if err != nil {
		t.Fatal(err)
	}
	// The pod is on the host's network: net.* is none of its own.
	if p.Pod.Hostname != "web-0" || p.Guest.Hostname != "" || !maps.Equal(p.Pod.Sysctls, map[string]string{"kernel.shmmax": "1"}) ||
		!maps.Equal(p.Guest.Linux.Sysctl, map[string]string{"net.ipv4.ip_forward": "1"}) {
		t.Errorf("the guest's: %+v, the container's: hostname %q, sysctls %v", p.Pod, p.Guest.Hostname, p.Guest.Linux.Sysctl)
	}
	if p.Pod.SHM != "/run/x/sandboxes/pod/shm" || p.Guest.Mounts[0].Source != "/guest/shm" || len(p.Mounts) != 1 {
		t.Errorf("/dev/shm stands for %q, is %+v, and the host mounts %+v", p.Pod.SHM, p.Guest.Mounts[0], p.Mounts)
	}
}

func TestPodsOnTheHostsProcessesAreRefused(t *testing.T) {
	_, err := NewPlan(newSpec(namespaces(specs.LinuxNamespace{Type: "ipc"})), Placement{First: true, Role: PodSandbox})
	if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "PID") {
		t.Errorf("got %v", err)
	}
}

func TestPodResources(t *testing.T) {
	r, err := PodResources(map[string]string{
		annotationContainerType: "sandbox", annotationPodMemory: "1073741824", annotationPodCPUQuota: "150000", annotationPodCPUPeriod: "100000",
	})
	if err != nil {
		t.Fatal(err)
	}
	size, err := SizeFor(Size{MemoryMiB: 256, VCPUs: 1}, Size{MemoryMiB: 4096, VCPUs: 4}, r)
	if want := (Size{MemoryMiB: 1024 + guestReserve(1024), VCPUs: 2}); err != nil || size != want {
		t.Errorf("%+v, %v; want %+v", size, err, want)
	}
	if r, err := PodResources(map[string]string{annotationPodMemory: "x"}); r != nil || err != nil {
		t.Errorf("of no pod: %v, %v", r, err)
	}
	if _, err := PodResources(map[string]string{annotationContainerType: "sandbox", annotationPodMemory: "x"}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("got %v", err)
	}
}

func TestPodOf(t *testing.T) {
	for name, c := range map[string]struct {
		spec *specs.Spec
		want string
	}{
		"no Linux":   {&specs.Spec{}, ""},
		"the host's": {newSpec(namespaces(specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "/ipc"})), ""},
		"a new one":  {newSpec(namespaces(specs.LinuxNamespace{Type: specs.NetworkNamespace})), ""},
		"a given one": {newSpec(namespaces(
			specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "/ipc"}, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/net"},
		)), "/net"},
	} {
		if got := PodOf(c.spec).NetNS; got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestPodFiles plans a member of a pod that no container holds: it gets the pod's
// files and memory, but where it brings its own.
func TestPodFiles(t *testing.T) {
	at := Placement{Bundle: "/b", GuestDir: "/guest/c", Role: PodMember, Sandbox: "pod", NoPause: true, GuestSHM: "/guest/shm",
		Etc: map[string]string{"hosts": "/etc-of/hosts", "resolv.conf": "/etc-of/resolv.conf"}}
	for name, c := range map[string]struct {
		mounts []specs.Mount
		want   map[string]string // source by destination, as the host and as the guest has it
	}{
		"nothing of its own": {[]specs.Mount{{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"}}, map[string]string{
			"/dev/shm": "/guest/shm", "/etc/hosts": "/etc-of/hosts", "/etc/resolv.conf": "/etc-of/resolv.conf",
		}},
		"its own": {[]specs.Mount{
			{Destination: "/dev/shm", Type: "bind", Source: "/var/lib/kubelet/shm", Options: []string{"bind"}},
			{Destination: "/etc/hosts", Type: "bind", Source: "/var/lib/kubelet/hosts", Options: []string{"bind"}},
		}, map[string]string{
			"/dev/shm": "/var/lib/kubelet/shm", "/etc/hosts": "/var/lib/kubelet/hosts", "/etc/resolv.conf": "/etc-of/resolv.conf",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := NewPlan(newSpec(func(s *specs.Spec) { s.Mounts = c.mounts }), at)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, m := range p.Guest.Mounts {
				got[m.Destination] = m.Source
				for _, h := range p.Mounts {
					if m.Source == at.GuestDir+"/"+h.Target {
						got[m.Destination] = h.Source
					}
				}
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("has %v, want %v", got, c.want)
			}
		})
	}
}
