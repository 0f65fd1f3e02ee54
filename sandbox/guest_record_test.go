package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hyperhq/hyper/sandbox/factory"
	"github.com/hyperhq/hyper/sandbox/record"
)

// TestRecordLeavesOutTheGone records a process that lives and one that has ended,
// as a QEMU that cannot run does before it is recorded.
func TestRecordLeavesOutTheGone(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pids")
	err := recordProcesses(file, []factory.Process{{Name: "qemu", PID: gone.Process.Pid}, {Name: "virtiofsd", PID: os.Getpid()}})
	if err != nil {
		t.Fatal(err)
	}
	want, err := record.Of(os.Getpid(), "virtiofsd")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := record.Read(file); err != nil || len(got) != 1 || got[0] != want {
		t.Errorf("recorded %v, %v; want %v", got, err, want)
	}
}
