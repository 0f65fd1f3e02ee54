package qemu

import (
	"slices"
	"testing"

	"github.com/hyperhq/hyper/virtcontainers"
)

func TestProcessorArguments(t *testing.T) {
	emulated, kvm := platform{tscKHz: 2600000}, platform{kvm: true, tscKHz: 2600000}
	for name, c := range map[string]struct {
		count, most uint32
		platform    platform
		processors  uint32
		want        []string
	}{
		"one":                     {1, 0, emulated, 1, nil},
		"one and no more":         {1, 1, emulated, 1, nil},
		"fewer than it has":       {3, 2, kvm, 3, nil},
		"two":                     {2, 0, emulated, 2, []string{"lpj=10400000"}},
		"one of eight":            {1, 8, emulated, 8, []string{"maxcpus=1", "lpj=10400000"}},
		"with a clock of no rate": {1, 8, platform{}, 8, []string{"maxcpus=1"}},
		"with KVM":                {2, 8, kvm, 8, []string{"maxcpus=2"}},
	} {
		spec := virtcontainers.VMSpec{VCPUs: c.count, MaxVCPUs: c.most}
		if got := processorArguments(spec, c.platform); !slices.Equal(got, c.want) || processors(spec) != c.processors {
			t.Errorf("%s: %d processors, %q; want %d, %q", name, processors(spec), got, c.processors, c.want)
		}
	}
}
