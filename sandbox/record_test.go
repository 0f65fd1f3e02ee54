package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hyperhq/hyper/sandbox/factory"
)

// TestRecordLeavesOutTheGone records a process that lives and one that has ended,
// as a QEMU that cannot run does before it is recorded.
func TestRecordLeavesOutTheGone(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pids")
	err := writeRecord(file, []factory.Process{{Name: "qemu", PID: gone.Process.Pid}, {Name: "virtiofsd", PID: os.Getpid()}})
	if err != nil {
		t.Fatal(err)
	}
	start, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if want := fmt.Sprintf("%d %d virtiofsd\n", os.Getpid(), start); err != nil || string(got) != want {
		t.Errorf("recorded %q, %v; want %q", got, err, want)
	}
}
