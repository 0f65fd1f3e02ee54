package network

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

func TestOpenRefuses(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("looking at namespaces needs root")
	}
	tests := map[string]struct {
		path string
		is   error
	}{
		"nothing":                {filepath.Join(t.TempDir(), "none"), errdefs.ErrNotFound},
		"a file":                 {"/etc/passwd", errdefs.ErrInvalidArgument},
		"another namespace":      {"/proc/self/ns/mnt", errdefs.ErrInvalidArgument},
		"the host's own network": {"/proc/thread-self/ns/net", errdefs.ErrFailedPrecondition},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			n, err := Open(test.path)
			if !errors.Is(err, test.is) {
				t.Errorf("Open(%s) = %v, want %v", test.path, err, test.is)
			}
			if err == nil {
				n.Close()
			}
		})
	}
}

// TestClosedNamespace sees to it that a namespace that is closed is not taken for
// the host's, which is where a netlink request without a socket goes.
func TestClosedNamespace(t *testing.T) {
	n := newNamespace(t)
	for range 2 {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Read(); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("Read of a closed namespace: %v", err)
	}
	if _, err := n.Join("lo", 1); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("Join in a closed namespace: %v", err)
	}
	if err := n.Follow(t.Context(), nil); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("Follow of a closed namespace: %v", err)
	}
}

// TestThreadsStayHome enters a namespace many times, and then takes more threads
// than the process can have left idle, of which none may be there.
func TestThreadsStayHome(t *testing.T) {
	const times = 50
	n := newNamespace(t)
	for range times {
		err := n.inside(func() error {
			if syscall.Gettid() == syscall.Getpid() {
				t.Error("the process's first thread entered the namespace")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	theirs, err := n.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var taken, done sync.WaitGroup
	taken.Add(2 * times)
	for range 2 * times {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			taken.Done()
			taken.Wait() // each holds its thread until all have one
			where, err := os.Stat("/proc/thread-self/ns/net")
			if err != nil {
				t.Error(err)
			} else if os.SameFile(where, theirs) {
				t.Error("a thread that others can get is in the namespace")
			}
		})
	}
	done.Wait()
}
