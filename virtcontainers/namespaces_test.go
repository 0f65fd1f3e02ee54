package virtcontainers

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestNetworkNamespace(t *testing.T) {
	namespaces := func(list ...specs.LinuxNamespace) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Namespaces: list}}
	}
	for name, c := range map[string]struct {
		spec *specs.Spec
		want string
	}{
		"no Linux":   {&specs.Spec{}, ""},
		"the host's": {namespaces(specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "/ipc"}), ""},
		"a new one":  {namespaces(specs.LinuxNamespace{Type: specs.NetworkNamespace}), ""},
		"a given one": {namespaces(
			specs.LinuxNamespace{Type: specs.IPCNamespace, Path: "/ipc"},
			specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/net"},
		), "/net"},
	} {
		if got := NetworkNamespace(c.spec); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
