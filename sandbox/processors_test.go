package sandbox

import (
	"context"
	"errors"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox/factory"
	"github.com/hyperhq/hyper/virtcontainers"
)

func cpuQuota(hundredths int64) *specs.LinuxResources {
	quota, period := hundredths*1000, uint64(100000)
	return &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}
}

// TestProcessorsAskedFor sees with how many processors a machine begins, and how many it
// can have: machines of different limits are of one kind.
func TestProcessorsAskedFor(t *testing.T) {
	fixed := map[string]string{config.AnnotationPrefix + "vcpus": "3"}
	for name, c := range map[string]struct {
		annotations map[string]string
		quota       int64
		count, most uint32
		needs       uint32
	}{
		"nothing":                   {nil, 0, 2, 8, 2},
		"less than there are":       {nil, 50, 2, 8, 2},
		"more":                      {nil, 350, 2, 8, 4},
		"more than twice as many":   {nil, 500, 2, 12, 5},
		"more than there may be":    {nil, 9900, 2, 12, 12},
		"an annotation":             {fixed, 0, 3, 3, 3},
		"an annotation and a limit": {fixed, 500, 3, 3, 3},
	} {
		t.Run(name, func(t *testing.T) {
			var asked factory.Spec
			s := newTestSandbox(t, func(_ context.Context, spec factory.Spec) error {
				asked = spec
				return errNoMachine
			})
			s.opts.Config.Sandbox.VCPUs, s.opts.Config.Sandbox.MaxVCPUs = 2, 12
			o := BootOptions{Annotations: c.annotations}
			if c.quota > 0 {
				o.Resources = *cpuQuota(c.quota)
			}
			if err := s.Boot(t.Context(), o); !errors.Is(err, errNoMachine) {
				t.Fatal(err)
			}
			if asked.Size.VCPUs != c.count || asked.MaxVCPUs != c.most || s.Status().Size.VCPUs != c.needs {
				t.Errorf("it asked for %d, at most %d, to use %d", asked.Size.VCPUs, asked.MaxVCPUs, s.Status().Size.VCPUs)
			}
		})
	}
}

// TestProcessorsNeeded sums the limits of a sandbox's containers.
func TestProcessorsNeeded(t *testing.T) {
	s := newTestSandbox(t, func(context.Context, factory.Spec) error { return errNoMachine })
	s.opts.Config.Sandbox.MaxVCPUs = 12
	g := newGuest(s, hardware{sizing: sizing{size: virtcontainers.Size{MemoryMiB: 256, VCPUs: 6}, leastCPUs: 1, mostCPUs: 8}})
	for _, step := range []struct {
		limits []*specs.LinuxResources
		want   uint32
	}{
		{nil, 1}, // not the 6 that it had at first
		{[]*specs.LinuxResources{cpuQuota(120), nil, cpuQuota(70)}, 2},
		{[]*specs.LinuxResources{cpuQuota(700), cpuQuota(110)}, 8},
		{[]*specs.LinuxResources{cpuQuota(9900)}, 8},
	} {
		if size, err := s.need(g, step.limits...); err != nil || size.VCPUs != step.want || size.MemoryMiB != 256 {
			t.Errorf("%d limits: %+v, %v; want %d", len(step.limits), size, err, step.want)
		}
	}
}
