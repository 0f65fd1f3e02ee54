package e2e

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/test/harness"
)

// testShareIsHeld looks at what the agent has open for containers whose files come by the
// share: their file systems, with their mount namespaces, until they are deleted. Without
// that the guest's kernel takes them apart too soon, which is seen by chance only.
func testShareIsHeld(t *testing.T, c *harness.Cell) {
	rootfsBy(t, c, "share")
	id, err := c.NewID()
	if err != nil {
		t.Fatal(err)
	}
	c.ContainerWithID(t, id, harness.Args("sleep", "1000000"), inPod("sandbox", id)).Create(t, harness.IO{}).Start(t)
	// In the guest's own PID namespace.
	look := c.Container(t, inPod("container", id), harness.Args("sleep", "1000000"), func(s *specs.Spec) {
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
		for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Effective, &s.Process.Capabilities.Permitted} {
			*set = append(*set, "CAP_SYS_PTRACE")
		}
	}).Create(t, harness.IO{})
	look.Start(t)
	held := func() (directories, namespaces int) {
		links := look.Shell(t, "for f in /proc/1/fd/*; do readlink $f; done").Stdout
		return strings.Count(links, "/share/"), strings.Count(links, "mnt:[")
	}
	directories, namespaces := held()
	if directories < 2 || namespaces != 2 {
		t.Errorf("of two containers the agent holds %d directories and %d mount namespaces", directories, namespaces)
	}
	task := c.Container(t, inPod("container", id), harness.Args("sleep", "1000")).Create(t, harness.IO{})
	task.Start(t)
	if d, n := held(); d <= directories || n != 3 {
		t.Errorf("of three containers it holds %d directories and %d mount namespaces", d, n)
	}
	if err := task.Kill(t, 9, false); err != nil {
		t.Fatal(err)
	}
	task.Finish(t)
	if d, n := held(); d != directories || n != 2 {
		t.Errorf("when one is deleted it holds %d directories and %d mount namespaces", d, n)
	}
}
