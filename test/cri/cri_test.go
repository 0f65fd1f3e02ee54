package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
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

// TestCRI runs the suite in one cell for each variant. $HYPER_TEST_RUNTIME takes
// another runtime, such as io.containerd.runc.v2, to see whether the tests ask for
// what the reference does.
func TestCRI(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: containerd mounts and makes network namespaces")
	}
	runtime := os.Getenv("HYPER_TEST_RUNTIME")
	if runtime == "" {
		runtime = harness.RuntimeHyper
	}
	parts, err := harness.FindParts()
	if err == nil && runtime == harness.RuntimeHyper {
		err = parts.CheckHyper()
	}
	if err != nil {
		if os.Getenv("HYPER_OUTPUT") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	const plugins = "/usr/lib/cni"
	if _, err := os.Stat(filepath.Join(plugins, "bridge")); err != nil {
		t.Skip("no CNI plugins: install containernetworking-plugins (`make setup`):", err)
	}
	removed, err := harness.RemoveStale()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range removed {
		t.Log("removed what a killed run left:", dir)
	}
	img, err := image.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	reaper, err := harness.NewReaper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reaper.Close)
	for _, v := range variants(parts, runtime) {
		o := harness.CellOptions{
			Parts: parts, Containerd: v.containerd, Runtime: runtime, Image: img, Reaper: reaper,
			CRI: &harness.CRI{Plugins: plugins, Sandboxer: v.sandboxer},
		}
		if runtime == harness.RuntimeHyper {
			o.Kernel = parts.Kernels[0]
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
			begin, size := time.Now(), n.cell.LogSize()
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("failed after %v; the log since the test began:\n%s", time.Since(begin), n.cell.LogSince(size))
				}
			})
			test.run(t, n)
		})
	}
}
