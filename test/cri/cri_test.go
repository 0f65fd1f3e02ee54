package cri

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperhq/hyper/test/harness"
)

// TestCRI runs the suite in one cell for each variant. As many run at the same time as
// there are processors (go test's -parallel); the tests of one run one after the other.
func TestCRI(t *testing.T) {
	const plugins = "/usr/lib/cni"
	if _, err := os.Stat(filepath.Join(plugins, "bridge")); err != nil {
		t.Skip("no CNI plugins: install containernetworking-plugins (`make setup`):", err)
	}
	common := harness.Prepare(t)
	for _, v := range variants(common.Parts, common.Runtime) {
		o := common
		o.Containerd, o.CRI = v.containerd, &harness.CRI{Plugins: plugins, Sandboxer: v.sandboxer}
		if o.Runtime == harness.RuntimeHyper {
			o.Kernel = o.Parts.Kernels[0]
		}
		t.Run(filepath.Base(o.Containerd)+"+"+o.CRI.Sandboxer, func(t *testing.T) {
			t.Parallel()
			o.Host = harness.NewNetworkHost(t)
			runCell(t, o)
		})
	}
}

// variant is a containerd and its way to make pods.
type variant struct{ containerd, sandboxer string }

// variants are each containerd with a pause container in each pod, and the newest
// with pods made by the shim, which runc's does not do.
func variants(p *harness.Parts, runtime string) []variant {
	var all []variant
	for _, containerd := range p.Containerds {
		all = append(all, variant{containerd, harness.SandboxerPodsandbox})
	}
	if runtime == harness.RuntimeHyper {
		all = append(all, variant{p.Newest(), harness.SandboxerShim})
	}
	return all
}

func runCell(t *testing.T, o harness.CellOptions) {
	n := newNode(t, o)
	for _, test := range suite() {
		t.Run(test.name, func(t *testing.T) {
			if test.vm && o.Runtime != harness.RuntimeHyper {
				t.Skip("only for a runtime with virtual machines")
			}
			if test.new && strings.HasPrefix(n.cell.Version, "1.") {
				t.Skip("containerd 1 cannot do it with any runtime")
			}
			if test.shares {
				n.lend(t)
			}
			n.checkLeaks(t)
			n.cell.LogFailure(t)
			test.run(t, n)
		})
	}
}
