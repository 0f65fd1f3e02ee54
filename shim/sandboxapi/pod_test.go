package sandboxapi

import (
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
)

// message encodes fields: numbers, each followed by its value.
func message(fields ...any) []byte {
	var b []byte
	for i := 0; i < len(fields); i += 2 {
		n := protowire.Number(fields[i].(int))
		switch v := fields[i+1].(type) {
		case int:
			b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), uint64(v))
		case string:
			b = protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), v)
		case []byte:
			b = protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
		}
	}
	return b
}

func TestDecodePod(t *testing.T) {
	whole := message(
		1, message(1, "name", 4, 3),
		2, "host",
		4, message(1, "10.0.0.1", 1, "fd00::1", 2, "svc.local", 3, "ndots:5"),
		7, message(1, "a", 2, "b"),
		7, message(1, "empty"),
		8, message(1, "/parent", 2, message(1, message(1, 2, 2, 1, 3, 0)), 3, message(1, "net.x", 2, "1"), 4, message(4, 5), 5, message(1, 100000, 2, 250000, 3, 1024, 4, 512<<20, 6, "0-1")),
	)
	period, quota, memory, zero := uint64(100000), int64(250000), int64(512<<20), int64(0)
	for name, c := range map[string]struct {
		options *anypb.Any
		want    pod
	}{
		"none":       {nil, pod{}},
		"of another": {&anypb.Any{TypeUrl: "x/Other", Value: []byte{0xff}}, pod{}},
		"empty":      {&anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig"}, pod{isPod: true}},
		"whole": {&anypb.Any{TypeUrl: "type.googleapis.com/runtime.v1.PodSandboxConfig", Value: whole}, pod{
			true, &dns{[]string{"10.0.0.1", "fd00::1"}, []string{"svc.local"}, []string{"ndots:5"}}, "host", map[string]string{"a": "b", "empty": ""}, map[string]string{"net.x": "1"}, "/parent", true,
			specs.LinuxResources{CPU: &specs.LinuxCPU{Period: &period, Quota: &quota}, Memory: &specs.LinuxMemory{Limit: &memory}},
		}},
		"no limit": {&anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig", Value: message(8, message(5, message(4, 0)))}, pod{
			isPod: true, resources: specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &zero}},
		}},
	} {
		if c.want.annotations == nil {
			c.want.annotations = map[string]string{}
		}
		if c.want.sysctls == nil {
			c.want.sysctls = map[string]string{}
		}
		if got, err := decodePod(c.options); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	for n := range whole {
		if _, err := decodePod(&anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig", Value: whole[:n]}); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	if _, err := decodePod(&anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig", Value: whole[:len(whole)-1]}); err == nil {
		t.Error("half a message was taken")
	}
}

func TestPodsInNamespacesOfTheHostAreRefused(t *testing.T) {
	for option, kind := range map[int]string{2: "PID", 3: "IPC"} {
		config := message(8, message(2, message(1, message(option, 2))))
		_, err := decodePod(&anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig", Value: config})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), kind) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestPodCgroup(t *testing.T) {
	for parent, want := range map[string]string{
		"":                                 "",
		"/kubepods/pod1":                   "/kubepods/pod1/s",
		"kubepods-x.slice":                 "kubepods-x.slice:cri-containerd:s",
		"/kubepods.slice/kubepods-x.slice": "kubepods-x.slice:cri-containerd:s",
	} {
		if got := (&pod{cgroupParent: parent}).cgroup("s"); got != want {
			t.Errorf("below %q: %q, want %q", parent, got, want)
		}
	}
}

func TestPodEtc(t *testing.T) {
	p := pod{isPod: true, hostname: "web", dns: &dns{[]string{"10.0.0.1", "fd00::1"}, []string{"a", "b"}, []string{"ndots:5"}}}
	got, err := p.etc()
	hosts, herr := os.ReadFile("/etc/hosts")
	if err != nil || herr != nil {
		t.Fatal(err, herr)
	}
	want := map[string]string{
		"hostname": "web\n", "hosts": string(hosts), "resolv.conf": "search a b\nnameserver 10.0.0.1\nnameserver fd00::1\noptions ndots:5\n",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, err := (&pod{}).etc(); got != nil || err != nil {
		t.Errorf("of what is no pod: %v, %v", got, err)
	}
}

func TestPodOnTheHostsNetwork(t *testing.T) {
	for mode, want := range map[int]bool{0: false, 2: true} {
		config := message(8, message(2, message(1, message(1, mode))))
		p, err := decodePod(&anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig", Value: config})
		if err != nil || p.hostNetwork != want {
			t.Errorf("mode %d: %v, %v", mode, p.hostNetwork, err)
		}
	}
}
