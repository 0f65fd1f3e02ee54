package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
)

// testSlice looks at how long an emulating QEMU may compute at a time: long while its
// first container is made, and as others once that runs.
func testSlice(t *testing.T, c *harness.Cell) {
	usual := threadSlices(t, os.Getpid())[0]
	if usual == 0 {
		t.Skip("this kernel has no slices (Linux before 6.12)")
	}
	task := c.Container(t, harness.Sh("echo here; exec sleep 1000")).Create(t, harness.IO{})
	machine := c.Program("qemu-system")[0]
	if !strings.Contains(strings.Join(machine.Args, " "), "-accel tcg") {
		t.Skip("this machine is not emulated")
	}
	for _, slice := range threadSlices(t, machine.PID) {
		if slice <= usual {
			t.Errorf("while it starts a thread of QEMU may compute for %v at a time, as others", slice)
		}
	}
	task.Start(t)
	task.Expect(t, "here")
	for _, slice := range threadSlices(t, machine.PID) {
		if slice != usual {
			t.Errorf("a thread of QEMU may compute for %v at a time, others for %v", slice, usual)
		}
	}
}

// threadSlices are for how long the threads of a process may compute at a time.
func threadSlices(t *testing.T, pid int) (all []time.Duration) {
	t.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		attr, err := unix.SchedGetAttr(id, 0)
		if err == unix.ESRCH {
			continue // it has ended
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, time.Duration(attr.Runtime))
	}
	return all
}
