package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// TestReadOnlyBind has a mount below what is bound.
func TestReadOnlyBind(t *testing.T) {
	s := newTestShare(t)
	dir, _ := testVolume(t)
	below := filepath.Join(dir, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(below, unix.MNT_DETACH) })
	for place, private := range map[string]bool{"c1.1": true, "c1.2": false} {
		m := virtcontainers.HostMount{Type: "bind", Source: dir, Options: []string{"rbind"}, Target: "mounts/0", ReadOnly: true, Private: private}
		if err := s.add(place, []virtcontainers.HostMount{m}); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"new", "below/new"} {
			err := os.WriteFile(filepath.Join(s.containerDir(place), "mounts/0", path), nil, 0o600)
			if pathErr, ok := err.(*os.PathError); !ok || pathErr.Err != unix.EROFS {
				t.Errorf("private %v: writing %s says %v", private, path, err)
			}
		}
		if err := s.drop(place); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(filepath.Join(below, "new"), nil, 0o600); err != nil {
		t.Errorf("the host's own mount: %v", err)
	}
}
