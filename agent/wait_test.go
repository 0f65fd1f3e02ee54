package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

func TestPidfdAwait(t *testing.T) {
	defer goleak.VerifyNone(t)
	for script, want := range map[string]uint32{"exit 0": 0, "exit 42": 42, "kill -9 $$": 137, "kill -TERM $$": 143, "sleep 0.1; exit 3": 3} {
		cmd := exec.Command("/bin/sh", "-c", script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fd, err := openPidfd(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := fd.await(); err != nil {
			t.Errorf("%s: %v", script, err)
		}
		fd.close()
		// It is still there to be waited for, by its owner.
		_ = cmd.Wait()
		if got := exitStatus(cmd.ProcessState); got != want {
			t.Errorf("%s: %d, want %d", script, got, want)
		}
	}
	if exitStatus(nil) != 255 {
		t.Error("an unknown end is no success")
	}
}

func testFIFO(t *testing.T) string {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	return fifo
}

func TestAwaitWriter(t *testing.T) {
	defer goleak.VerifyNone(t)
	never := make(chan struct{})
	fifo := testFIFO(t)
	wrote := make(chan error, 1)
	go func() { wrote <- os.WriteFile(fifo, []byte("0"), 0) }()
	if err := awaitWriter(t.Context(), fifo, never); err != nil {
		t.Error(err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}

	dead := make(chan struct{})
	time.AfterFunc(20*time.Millisecond, func() { close(dead) })
	if err := awaitWriter(t.Context(), fifo, dead); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "already dead") {
		t.Errorf("an init that died: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := awaitWriter(ctx, fifo, never); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a deadline: %v", err)
	}
	if err := awaitWriter(t.Context(), fifo+"x", never); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no fifo: %v", err)
	}
}

// An init that wrote and ended in the same moment was started all the same.
func TestAwaitWriterThatDiesAtOnce(t *testing.T) {
	fifo := testFIFO(t)
	keep, err := os.OpenFile(fifo, os.O_RDWR, 0) // keeps what is written
	if err != nil {
		t.Fatal(err)
	}
	defer keep.Close()
	mustWrite(t, keep, "0")
	dead := make(chan struct{})
	close(dead)
	if err := awaitWriter(t.Context(), fifo, dead); err != nil {
		t.Error(err)
	}
}

func TestForker(t *testing.T) {
	k := newForker()
	defer k.close()
	if err := k.do(func() error { panic("boom") }); !errdefs.IsInternal(err) || !strings.Contains(err.Error(), "boom") {
		t.Errorf("a panic became %v", err)
	}
	// More at once than there are threads.
	errs := make(chan error, 4*maxForks)
	for range cap(errs) {
		go func() { errs <- k.do(func() error { return exec.Command("/bin/true").Run() }) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestModulesAwait(t *testing.T) {
	defer goleak.VerifyNone(t)
	list := filepath.Join(t.TempDir(), "filesystems")
	if err := os.WriteFile(list, []byte("nodev\ttmpfs\n\text4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := newModules(&logger{w: io.Discard, clock: sinceBoot}, list)
	if err := m.await(t.Context(), "ext4"); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := m.await(ctx, "overlay"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a module that is not loaded yet: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, func() {
		os.WriteFile(list, []byte("nodev\toverlay\n"), 0o600)
		m.progress(false)
	})
	if err := m.await(t.Context(), "overlay"); err != nil || !m.has("overlay") {
		t.Errorf("a module that was loaded: %v", err)
	}
	m.load(list + ".none") // a kernel with all built in
	if err := m.await(t.Context(), "erofs"); err != nil {
		t.Errorf("after the last module: %v", err)
	}
}
