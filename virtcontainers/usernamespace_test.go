package virtcontainers

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mapped gives a container a user namespace, capabilities and the mounts of
// namespaces.
func mapped(s *specs.Spec) {
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.UserNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_NET_ADMIN"}}
	s.Mounts = []specs.Mount{
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "ro"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid"}},
	}
}

func TestAUserNamespaceGetsWhatShowsTheGuestsNamespacesBound(t *testing.T) {
	first := at
	first.First = true
	for name, c := range map[string]struct {
		placement Placement
		role      string
		want      []string // source and options of /sys and /dev/mqueue
	}{
		"alone": {first, "", []string{"bind /sys rbind nosuid rro", "mqueue mqueue nosuid"}},
		"a pod": {first, "sandbox", []string{"bind /sys rbind nosuid rro", "bind /dev/mqueue rbind nosuid"}},
	} {
		s := newSpec(mapped)
		s.Annotations = map[string]string{annotationContainerType: c.role}
		c.placement.Role = RoleOf(s.Annotations)
		if c.role != "" {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
		}
		p, err := NewPlan(s, c.placement)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range p.Guest.Mounts {
			got = append(got, strings.Join(append([]string{m.Type, m.Source}, m.Options...), " "))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: mounts %q, want %q", name, got, c.want)
		}
	}
}

func TestAUserNamespacesNetworkIsOpenedAsItsCapabilitiesSay(t *testing.T) {
	first := at
	first.First = true
	const port, ping = "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		want   map[string]string
	}{
		"both":              {func(*specs.Spec) {}, map[string]string{port: "0", ping: "0 2147483647"}},
		"its own word":      {func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{port: "80"} }, map[string]string{port: "80", ping: "0 2147483647"}},
		"none":              {func(s *specs.Spec) { s.Process.Capabilities.Bounding = nil }, nil},
		"no user namespace": {func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }, nil},
	} {
		p, err := NewPlan(newSpec(mapped, c.change), first)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(p.Pod.Sysctls, c.want) {
			t.Errorf("%s: sysctls %v, want %v", name, p.Pod.Sysctls, c.want)
		}
	}
}
