package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hyperhq/hyper/test/harness"
)

// TestEndToEnd runs the suite with each containerd and with each guest kernel, in
// as few pairs of the two as that takes, or with $HYPER_TEST_MATRIX=full in every
// one. As many pairs run at the same time as there are processors (go test's
// -parallel), and the tests of each in as many lanes as lanes says.
func TestEndToEnd(t *testing.T) {
	common := harness.Prepare(t)
	// What one lane has had built is of use to all. Tests of templates have their own.
	common.Templates = filepath.Join(t.TempDir(), "templates")
	kernels := common.Parts.Kernels
	if common.Runtime != harness.RuntimeHyper {
		kernels = []string{""}
	}
	full := os.Getenv("HYPER_TEST_MATRIX") == "full"
	for i, pair := range cells(common.Parts.Containerds, kernels, full) {
		cell := common
		cell.Containerd, cell.Kernel = pair.Containerd, pair.Kernel
		t.Run(cellName(cell.Containerd, cell.Kernel), func(t *testing.T) {
			t.Parallel()
			runCell(t, cell, full || i == 0)
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

// lanes is how many cells of one pair share its tests. The tests of one cell run one
// after the other, which is what the leak check builds on, and for a part of its time
// each test waits: for its own limits, for one processor of a machine, for a disk.
const lanes = 2

// runCell runs every test once, in the lane that is the next to be free; whole is false
// where those are left out that need to run in one cell only.
func runCell(t *testing.T, o harness.CellOptions, whole bool) {
	list := subjects(suite())
	queue := make(chan []test, len(list))
	for _, subject := range list {
		queue <- subject
	}
	close(queue)
	var all sync.WaitGroup
	for range lanes {
		all.Go(func() { runLane(t, lane{options: o, whole: whole}, queue) })
	}
	all.Wait()
}

// runLane runs subjects as long as there are any, one test after the other.
func runLane(t *testing.T, l lane, queue <-chan []test) {
	defer func() {
		l.takeBack(t)
		if err := l.close(); err != nil {
			t.Errorf("ending containerd: %v", err)
		}
	}()
	for subject := range queue {
		for _, test := range subject {
			t.Run(test.name, func(t *testing.T) { l.run(t, test) })
		}
	}
}

// lane is a cell that is made for the first test that runs in it.
type lane struct {
	options harness.CellOptions
	whole   bool // it has the tests of one cell only
	cell    *harness.Cell
	failed  error // why there is none
	pod     *sharedPod
}

func (l *lane) run(t *testing.T, test test) {
	if test.vm && l.options.Runtime != harness.RuntimeHyper {
		t.Skip("only for a runtime with virtual machines")
	}
	if test.once && !l.whole {
		t.Skip("another cell has it: neither the containerd nor the guest's kernel matters ($HYPER_TEST_MATRIX=full runs it in all)")
	}
	if l.cell == nil && l.failed == nil {
		l.cell, l.failed = harness.NewCell(t.Context(), l.options)
	}
	if l.failed != nil {
		t.Fatal(l.failed)
	}
	l.cell.LogFailure(t) // also of what the following find
	if test.shares {
		l.lend(t)
	} else {
		l.takeBack(t)
	}
	l.cell.CheckLeaks(t)
	test.run(t, l.cell)
}

func (l *lane) close() error {
	if l.cell == nil {
		return nil
	}
	return l.cell.Close()
}

// subjects parts the tests by what is before the slash of their names, those that take
// the longest first, so that no lane is left with one of them at the end. Those that share
// a pod are subjects of their own, and come last: others count the machines, or kill them.
func subjects(tests []test) [][]test {
	own := slices.DeleteFunc(slices.Clone(tests), func(t test) bool { return t.shares })
	shared := slices.DeleteFunc(slices.Clone(tests), func(t test) bool { return !t.shares })
	return append(bySubject(own), bySubject(shared)...)
}

func bySubject(tests []test) [][]test {
	var names []string
	by := map[string][]test{}
	for _, test := range tests {
		name, _, _ := strings.Cut(test.name, "/")
		if _, ok := by[name]; !ok {
			names = append(names, name)
		}
		by[name] = append(by[name], test)
	}
	// Templates that rootdisk has built are of use to pool.
	longest := []string{"rootdisk", "template", "pool", "faults", "config", "task", "processors"}
	place := func(name string) int {
		if i := slices.Index(longest, name); i >= 0 {
			return i
		}
		return len(longest)
	}
	slices.SortStableFunc(names, func(a, b string) int { return place(a) - place(b) })
	var list [][]test
	for _, name := range names {
		list = append(list, by[name])
	}
	return list
}

func TestSubjectsHaveEveryTestOnce(t *testing.T) {
	left := map[string]bool{}
	for _, test := range suite() {
		if left[test.name] {
			t.Errorf("there are two tests %q", test.name)
		}
		left[test.name] = true
	}
	for _, subject := range subjects(suite()) {
		first, _, _ := strings.Cut(subject[0].name, "/")
		for _, test := range subject {
			if name, _, _ := strings.Cut(test.name, "/"); name != first || test.shares != subject[0].shares || !left[test.name] {
				t.Errorf("%q is among the tests of %q, or was already", test.name, first)
			}
			delete(left, test.name)
		}
	}
	if len(left) > 0 {
		t.Errorf("in no subject are %v", left)
	}
}
