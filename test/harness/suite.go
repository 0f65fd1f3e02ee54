package harness

import (
	"os"
	"time"

	"github.com/hyperhq/hyper/test/image"
)

// Prepare makes what the cells of a suite of tests have in common: of its options,
// Containerd, Kernel and CRI are left to choose. Where the suite cannot run the test
// is skipped; but it fails if $HYPER_OUTPUT says that all is built, and it is not.
// $HYPER_TEST_RUNTIME takes another runtime, such as io.containerd.runc.v2, to see
// whether the tests ask for what the reference does.
func Prepare(t interface {
	T
	Skip(args ...any)
	TempDir() string
}) CellOptions {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: containerd mounts, and processes change their users and namespaces")
	}
	o := CellOptions{Runtime: os.Getenv("HYPER_TEST_RUNTIME")}
	if o.Runtime == "" {
		o.Runtime = RuntimeHyper
	}
	var err error
	if o.Parts, err = FindParts(); err == nil && o.Runtime == RuntimeHyper {
		err = o.Parts.CheckHyper()
	}
	if err != nil {
		if os.Getenv("HYPER_OUTPUT") == "" {
			t.Skip(err)
		}
		t.Fatalf("%v", err)
	}
	removed, err := RemoveStale()
	if err != nil {
		t.Fatalf("removing what killed runs left: %v", err)
	}
	for _, dir := range removed {
		t.Logf("removed what a killed run left: %s", dir)
	}
	if o.Image, err = image.Build(t.Context(), t.TempDir()); err != nil {
		t.Fatalf("building the tests' image: %v", err)
	}
	if o.Reaper, err = NewReaper(); err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(o.Reaper.Close) // after the cells
	return o
}

// LogFailure shows what containerd and its shims have logged from now on, if the test
// fails.
func (c *Cell) LogFailure(t interface {
	T
	Failed() bool
}) {
	begin, size := time.Now(), c.LogSize()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("failed after %v; the log since the test began:\n%s", time.Since(begin), c.LogSince(size))
		}
	})
}
