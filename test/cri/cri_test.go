package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
)

// namespaceVariable says, in the environment, that this process has its network
// namespace already.
const namespaceVariable = "HYPER_TEST_NETNS"

func TestMain(m *testing.M) {
	if os.Geteuid() == 0 {
		if err := ownNetwork(); err != nil {
			fmt.Fprintln(os.Stderr, "giving the tests a network namespace of their own:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// ownNetwork begins this process anew in a network namespace of its own: a
// namespace belongs to a thread, and only exec makes one thread the process.
func ownNetwork() error {
	if os.Getenv(namespaceVariable) != "" {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("looking for the loopback: %w", err)
		}
		return netlink.LinkSetUp(lo)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	return unix.Exec(self, os.Args, append(os.Environ(), namespaceVariable+"=1"))
}

// TestCRI runs the suite in one cell for each variant.
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
		// One after the other: they share the node's network.
		t.Run(filepath.Base(o.Containerd)+"+"+o.CRI.Sandboxer, func(t *testing.T) { runCell(t, o) })
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
			n.checkLeaks(t)
			n.cell.LogFailure(t)
			test.run(t, n)
		})
	}
}
