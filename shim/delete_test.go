package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hyperhq/hyper/sandbox"
)

// TestACgroupThatStaysIsKnown deletes a server in whose group another has made one.
func TestACgroupThatStaysIsKnown(t *testing.T) {
	const root = "/sys/fs/cgroup" // a hierarchy of version 2, or what holds those of version 1
	mount := root
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
		mount = filepath.Join(root, "pids")
	}
	name := fmt.Sprintf("/hyper-test-shim-%d", os.Getpid())
	group := filepath.Join(mount, name)
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("no cgroup can be made: %v", err)
	}
	t.Cleanup(func() { os.Remove(group) })
	inner := filepath.Join(group, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(inner) })
	d, err := makeRunDir(t.TempDir(), "unix:///address")
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(os.Mkdir(d.sandbox(), 0o700), os.WriteFile(filepath.Join(d.sandbox(), sandbox.CgroupFile), []byte(name), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := endAll(ctx, nil, d); err == nil {
		t.Error("no error tells that the group stays")
	}
	if _, err := os.Stat(d.sandbox()); err != nil {
		t.Errorf("nobody knows of the group any more: %v", err)
	}
	if err := os.Remove(inner); err != nil {
		t.Fatal(err)
	}
	if err := endAll(t.Context(), nil, d); err != nil {
		t.Errorf("the second time: %v", err)
	}
	for _, path := range []string{group, string(d)} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}
