package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
)

// testSharedCgroup gives a container the cgroup of another that lives.
func testSharedCgroup(t *testing.T, c *harness.Cell) {
	path := "/" + c.Namespace + "/shared"
	in := func(s *specs.Spec) { s.Linux.CgroupsPath = path }
	first := running(t, c, in)
	joined := machineGroups(t, c)
	if !strings.Contains(joined, path) {
		t.Fatalf("the first machine is in %s", joined)
	}
	if task, err := c.Container(t, harness.Args("true"), in).TryCreate(t, harness.IO{}); err == nil {
		t.Errorf("a second was made in it, with the process %d", task.PID)
	} else if !strings.Contains(err.Error(), path) {
		t.Errorf("the error does not name the cgroup: %v", err)
	}
	if now := machineGroups(t, c); now != joined {
		t.Errorf("after the second the first machine is in %s", now)
	}
	if r := first.Do(t, "echo", "lives"); r.Stdout != "lives\n" {
		t.Errorf("the first: %+v", r)
	}
	if err := first.Kill(t, uint32(unix.SIGKILL), false); err != nil {
		t.Fatal(err)
	}
	first.Finish(t)
	// At once, while the first machine may still be ending.
	if r := c.Run(t, harness.Args("echo", "good"), in); r.Stdout != "good\n" {
		t.Errorf("one in it after all: %+v", r)
	}
}

// machineGroups is where the cell's only machine is.
func machineGroups(t *testing.T, c *harness.Cell) string {
	t.Helper()
	machines := c.Program("qemu-system")
	if len(machines) != 1 {
		t.Fatalf("there are %d virtual machines", len(machines))
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", machines[0].PID))
	if err != nil {
		t.Fatal(err)
	}
	return string(groups)
}
