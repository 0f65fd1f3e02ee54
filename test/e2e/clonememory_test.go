package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
)

// cloneOwnLimit is what a clone may have changed of its template's memory when its first
// container runs, in KiB.
const cloneOwnLimit = 6 << 10

// testCloneMemory looks at what a clone has of its own.
func testCloneMemory(t *testing.T, c *harness.Cell) {
	withTemplates(t, c)
	first := running(t, c)
	first.Kill(t, uint32(unix.SIGKILL), true)
	first.Wait(t, harness.Soon)
	first.Delete(t)
	awaitTemplate(t, c)

	running(t, c)
	if !cloned(t, c) {
		t.Fatal("the machine is no clone")
	}
	machine := c.Program("qemu-system")[0]
	if own := mapped(t, machine.PID, "memfd:memory", "Anonymous"); own == 0 || own > cloneOwnLimit {
		t.Errorf("of its template's memory it has changed %d KiB, want %d at most", own, cloneOwnLimit)
	}
	if !strings.Contains(strings.Join(machine.Args, " "), "-accel tcg") {
		return
	}
	if huge := mapped(t, machine.PID, "", "AnonHugePages"); huge > 0 {
		t.Errorf("%d KiB of its memory are huge pages, of which little is used", huge)
	}
}

// mapped is the sum of a field of what a process has mapped, in KiB, of files whose name
// contains a text.
func mapped(t *testing.T, pid int, file, field string) (sum int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatal(err)
	}
	var counts bool
	for line := range strings.Lines(string(data)) {
		key, rest, _ := strings.Cut(line, ":")
		switch {
		case strings.Contains(key, "-"):
			counts = strings.Contains(line, file)
		case counts && key == field:
			var kib int
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				t.Fatalf("reading %q: %v", line, err)
			}
			sum += kib
		}
	}
	return sum
}
