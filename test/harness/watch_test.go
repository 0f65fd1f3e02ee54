package harness

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watched is a watch of one process, in a cell with nothing but a directory.
func watched(t *testing.T, cmd *exec.Cmd) *Watch {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &Watch{cell: &Cell{Dir: t.TempDir()}, fds: []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}}
	t.Cleanup(w.Close)
	return w
}

func TestWatchEndsWithTheProcess(t *testing.T) {
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	w := watched(t, cmd)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("with a process that lives: %v", err)
	}
	stdin.Close()
	if err := w.Wait(t.Context()); err != nil {
		t.Fatalf("with a process that ends: %v", err)
	}
}

func TestWatchWaitsForTheBundle(t *testing.T) {
	w := watched(t, exec.Command("true"))
	bundle := filepath.Join(w.cell.Dir, "state", "io.containerd.runtime.v2.task", "ns", "c1")
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Wait(t.Context()) }()
	select {
	case err := <-done:
		t.Fatalf("Wait has returned %v before the bundle was gone", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := os.Remove(bundle); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
