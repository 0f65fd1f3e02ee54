package e2e

import (
	"fmt"
	"testing"

	"github.com/hyperhq/hyper/test/harness"
)

// testRustVirtiofsd has the virtiofsd in Rust do what the daemon that is found otherwise,
// on Debian 12 the one in C, does in all other tests.
func testRustVirtiofsd(t *testing.T, c *harness.Cell) {
	path := c.Parts.RustVirtiofsd
	if path == "" {
		t.Skip("no virtiofsd in Rust in the cache: run `make virtiofsd`")
	}
	c.DropInFor(t, "20-virtiofsd.toml", fmt.Sprintf("[virtiofsd]\npath = %q\n", path))
	t.Run("in a pod", func(t *testing.T) {
		c.CheckLeaks(t)
		testPodOfRustVirtiofsd(t, c)
	})
	for _, test := range []test{
		{name: "executables", run: testExecutables},
		{name: "propagation", run: testPropagation},
		{name: "killed", run: func(t *testing.T, c *harness.Cell) { checkKilled(t, c, "virtiofsd", moment{"running", started}) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.CheckLeaks(t)
			rootfsBy(t, c, "share") // for each: some choose it themselves, and undo that
			test.run(t, c)
		})
	}
}

// testPodOfRustVirtiofsd runs what needs no machine of its own in one that has the daemon
// in Rust.
func testPodOfRustVirtiofsd(t *testing.T, c *harness.Cell) {
	first, _ := newPod(t, c)
	t.Cleanup(func() { c.Always() })
	c.Always(inPod("container", first.Container.ID))
	for _, test := range []test{
		{name: "its processes", run: func(t *testing.T, c *harness.Cell) {
			// One is in the sandbox, one waits for its end.
			for _, p := range c.Program("virtiofsd") {
				if p.Exe != c.Parts.RustVirtiofsd {
					t.Errorf("%s is not %s", p, c.Parts.RustVirtiofsd)
				}
			}
			if n := len(c.Program("virtiofsd")); n != 2 {
				t.Errorf("there are %d", n)
			}
		}},
		{name: "root filesystem", run: testRootfs},
		{name: "persists", run: testRootfsPersists},
		{name: "read-only", run: testReadonlyRootfs},
		{name: "bind directories", run: testBindDirectories},
		{name: "bind files", run: testBindFile},
		{name: "user namespace", run: testUserNamespaceMounts},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.CheckLeaks(t)
			test.run(t, c)
		})
	}
}
