package sandbox

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestMachineEndsWithItsLastContainer(t *testing.T) {
	inPod := map[string]string{"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "s"}
	for _, test := range []struct {
		name   string
		change func(*Sandbox, *Container)
		want   bool
	}{
		{"alone", func(*Sandbox, *Container) {}, true},
		{"another is there", func(s *Sandbox, _ *Container) { s.containers["other"] = &Container{} }, false},
		{"forgotten", func(s *Sandbox, c *Container) { delete(s.containers, c.id) }, false},
		{"booted without it", func(s *Sandbox, _ *Container) { s.booted = true }, false},
		{"a pod's", func(_ *Sandbox, c *Container) { c.spec.Annotations = inPod }, false},
		{"with a share", func(_ *Sandbox, c *Container) { c.guest.share = true }, false},
		{"with a disk of the host", func(_ *Sandbox, c *Container) { c.disks = []usedDisk{{}} }, false},
		{"with a socket of the host", func(_ *Sandbox, c *Container) { c.sockets = []uint64{1} }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := rootfsSandbox(t, nil)
			c := &Container{id: "c", sandbox: s, spec: &specs.Spec{}, guest: &guest{sandbox: s}}
			s.containers = map[string]*Container{"c": c}
			test.change(s, c)
			if got := s.endsWith(c); got != test.want {
				t.Fatalf("got %v, want %v", got, test.want)
			}
			if !test.want {
				return
			}
			if err := s.reserve(&Container{id: "next"}); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("another container gets %v", err)
			}
		})
	}
}
