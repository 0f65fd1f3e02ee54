package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// TestEndToEnd runs the suite on each containerd with each guest kernel. As many
// of these cells run at the same time as there are processors (go test's
// -parallel); the tests of one cell run one after the other.
// $HYPER_TEST_RUNTIME takes another runtime, such as io.containerd.runc.v2, to
// see whether the tests ask for what the reference does.
func TestEndToEnd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: containerd mounts, and the sandbox's processes change their user")
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
	kernels := parts.Kernels
	if runtime != harness.RuntimeHyper {
		kernels = []string{""}
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
	t.Cleanup(reaper.Close) // after the cells, which run at the same time
	for _, containerd := range parts.Containerds {
		for _, kernel := range kernels {
			o := harness.CellOptions{Parts: parts, Containerd: containerd, Kernel: kernel, Runtime: runtime, Image: img, Reaper: reaper}
			t.Run(cellName(containerd, kernel), func(t *testing.T) {
				t.Parallel()
				runCell(t, o)
			})
		}
	}
}

func cellName(containerd, kernel string) string {
	name := containerd[strings.LastIndex(containerd, "/")+1:]
	if kernel == "" {
		return name
	}
	return name + "+" + kernel
}

func runCell(t *testing.T, o harness.CellOptions) {
	c, err := harness.NewCell(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Errorf("ending containerd: %v", err)
		}
	}()
	for _, test := range suite() {
		t.Run(test.name, func(t *testing.T) {
			if test.vm && o.Runtime != harness.RuntimeHyper {
				t.Skip("only for a runtime with virtual machines")
			}
			c.CheckLeaks(t)
			begin, size := time.Now(), c.LogSize()
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("failed after %v; the log since the test began:\n%s", time.Since(begin), c.LogSince(size))
				}
			})
			test.run(t, c)
		})
	}
}
