package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

func TestWorkDirIsNotStale(t *testing.T) {
	dir, remove, err := WorkDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !ownerLives(dir) {
		t.Errorf("the owner of %s, this process, is taken to be gone", dir)
	}
	if err := remove(); err != nil || exists(dir) {
		t.Errorf("removing %s: %v, still there: %v", dir, err, exists(dir))
	}
}

func TestChildren(t *testing.T) {
	cmd := exec.Command("cat") // which ends with its standard input
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(children(), cmd.Process.Pid) {
		t.Errorf("the child %d is not among %v", cmd.Process.Pid, children())
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(children(), cmd.Process.Pid) {
		t.Errorf("%d is a child though it has ended", cmd.Process.Pid)
	}
}
