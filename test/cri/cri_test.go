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

// TestCRI runs the suite in one cell for each of containerds. $HYPER_TEST_RUNTIME takes another runtime, such as
// io.containerd.runc.v2, to see whether the tests ask for what the reference does,
// and $HYPER_TEST_SANDBOXER another of containerd 2's ways to make a pod: shim.
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
	sandboxer := os.Getenv("HYPER_TEST_SANDBOXER")
	if sandboxer == "" {
		sandboxer = harness.SandboxerPodsandbox
	}
	for _, containerd := range containerds(parts) {
		o := harness.CellOptions{
			Parts: parts, Containerd: containerd, Runtime: runtime, Image: img, Reaper: reaper,
			CRI: &harness.CRI{Plugins: plugins, Sandboxer: sandboxer},
		}
		if runtime == harness.RuntimeHyper {
			o.Kernel = parts.Kernels[0]
		}
		// One after the other: they share the node's network.
		t.Run(filepath.Base(o.Containerd)+"+"+o.CRI.Sandboxer, func(t *testing.T) { runCell(t, o) })
	}
}

// containerds are those that the suite runs with: the newest, or with
// $HYPER_TEST_MATRIX=full all.
func containerds(p *harness.Parts) []string {
	if os.Getenv("HYPER_TEST_MATRIX") == "full" {
		return p.Containerds
	}
	return []string{p.Newest()}
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
