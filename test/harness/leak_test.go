package harness

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// emptyCell is a cell without a containerd.
func emptyCell(t *testing.T, reaper *Reaper) *Cell {
	t.Helper()
	dir, err := makeDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		killBelonging(dir)
		if err := removeDir(dir); err != nil {
			t.Error(err)
		}
	})
	for _, sub := range []string{"tmp", "mnt"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &Cell{Dir: dir, Namespace: namespaceOf(dir), reaper: reaper}
}

// newReaper is this process's, of which there may be one at a time.
func newReaper(t *testing.T) *Reaper {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	reaper, err := NewReaper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reaper.Close)
	return reaper
}

// orphan starts a process whose parent ends at once, as a shim's does.
func orphan(t *testing.T, r *Reaper, dir string, command string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "setsid "+command+" >/dev/null 2>&1 </dev/null &")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), dirVariable+"="+dir)
	if err := r.Run(cmd); err != nil {
		t.Fatal(err)
	}
}

// sleeper leaves an orphan that lives on, and waits until it is the program that
// it becomes: before that /proc shows neither arguments nor an environment.
func sleeper(t *testing.T, c *Cell) {
	t.Helper()
	orphan(t, c.reaper, c.Dir, "sleep 1000")
	Eventually(t, Soon, func() error {
		below := c.Below()
		if slices.ContainsFunc(below, func(p Process) bool { return slices.Equal(p.Args, []string{"sleep", "1000"}) }) {
			return nil
		}
		return fmt.Errorf("no sleeper has begun among %v", below)
	})
}

// TestSnapshotFindsWhatIsLeft leaves one of each kind behind.
func TestSnapshotFindsWhatIsLeft(t *testing.T) {
	c := emptyCell(t, newReaper(t))
	before := c.Snapshot()
	if left := c.Snapshot().Since(before); len(left) != 0 {
		t.Fatalf("with nothing left behind there is %q", left)
	}
	sleeper(t, c)
	mount := filepath.Join(c.Dir, "mnt")
	if err := unix.Mount("tmpfs", mount, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.Dir, "tmp", "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(c.Dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	left := strings.Join(c.Snapshot().Since(before), "\n")
	for _, want := range []string{"process ", "sleep 1000", "mount " + mount, "file " + file, "socket " + filepath.Join(c.Dir, "socket")} {
		if !strings.Contains(left, want) {
			t.Errorf("no %q in what is left:\n%s", want, left)
		}
	}
}

// TestReaperLeavesOwnChildren runs orphans and commands at the same time.
func TestReaperLeavesOwnChildren(t *testing.T) {
	c := emptyCell(t, newReaper(t))
	for range 50 {
		orphan(t, c.reaper, c.Dir, "true")
		err := c.reaper.Run(exec.Command("sh", "-c", "exit 3"))
		if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 3 {
			t.Fatalf("the exit of an own child: %v", err)
		}
	}
	self := os.Getpid()
	zombies := func() []string {
		var found []string
		for _, p := range processes() {
			if p.Parent == self && p.Zombie() {
				found = append(found, p.String())
			}
		}
		return found
	}
	if left := within(t.Context(), Soon, zombies); len(left) != 0 {
		t.Errorf("not reaped: %q", left)
	}
}

// TestRemoveStale finds what a run left whose process is gone, and leaves alone
// what belongs to one that lives.
func TestRemoveStale(t *testing.T) {
	reaper := newReaper(t)
	own, stale := emptyCell(t, reaper), emptyCell(t, reaper)
	sleeper(t, stale)
	if err := unix.Mount("tmpfs", filepath.Join(stale.Dir, "mnt"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	gone := exec.Command("true")
	if err := stale.reaper.Run(gone); err != nil {
		t.Fatal(err)
	}
	owner := []byte(strconv.Itoa(gone.Process.Pid) + " 1\n")
	if err := os.WriteFile(filepath.Join(stale.Dir, ownerFile), owner, 0o644); err != nil {
		t.Fatal(err)
	}
	removed, err := RemoveStale()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(removed, "\n"), stale.Dir) || exists(stale.Dir) || len(mountsBelow(stale.Dir)) != 0 {
		t.Errorf("removed %q; %s is still there", removed, stale.Dir)
	}
	for _, p := range stale.Below() {
		t.Errorf("still running: %s", p)
	}
	if !exists(own.Dir) {
		t.Errorf("it removed %s, whose owner lives", own.Dir)
	}
}
