package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/hyperhq/hyper/test/harness"
)

// TestEndToEnd runs the suite with each containerd and with each guest kernel, in
// as few cells of the two as that takes, or with $HYPER_TEST_MATRIX=full in every
// one. As many cells run at the same time as there are processors (go test's
// -parallel); the tests of one cell run one after the other.
func TestEndToEnd(t *testing.T) {
	common := harness.Prepare(t)
	kernels := common.Parts.Kernels
	if common.Runtime != harness.RuntimeHyper {
		kernels = []string{""}
	}
	for _, pair := range cells(common.Parts.Containerds, kernels, os.Getenv("HYPER_TEST_MATRIX") == "full") {
		cell := common
		cell.Containerd, cell.Kernel = pair.Containerd, pair.Kernel
		t.Run(cellName(cell.Containerd, cell.Kernel), func(t *testing.T) {
			t.Parallel()
			runCell(t, cell)
		})
	}
}

// cells pairs containerds and kernels: all with all, or each at least once.
func cells(containerds, kernels []string, full bool) []harness.CellOptions {
	var list []harness.CellOptions
	for i, containerd := range containerds {
		for j, kernel := range kernels {
			if full || i%len(kernels) == j%len(containerds) {
				list = append(list, harness.CellOptions{Containerd: containerd, Kernel: kernel})
			}
		}
	}
	return list
}

func TestCellsHaveEachContainerdAndEachKernel(t *testing.T) {
	a, b := []string{"a1", "a2"}, []string{"b1", "b2"}
	for _, c := range []struct {
		containerds, kernels []string
		full                 bool
		want                 int
	}{{a, b, false, 2}, {a, b, true, 4}, {a, b[:1], false, 2}, {a[:1], b, false, 2}, {a, []string{""}, false, 2}} {
		list := cells(c.containerds, c.kernels, c.full)
		seen := map[string]bool{}
		for _, cell := range list {
			seen[cell.Containerd], seen[cell.Kernel] = true, true
		}
		if len(list) != c.want || len(seen) != len(c.containerds)+len(c.kernels) {
			t.Errorf("%v with %v, full %v: %d cells that have %v", c.containerds, c.kernels, c.full, len(list), seen)
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
			c.LogFailure(t)
			test.run(t, c)
		})
	}
}
