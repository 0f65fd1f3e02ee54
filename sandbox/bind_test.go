package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/process/thread"
	"github.com/hyperhq/hyper/virtcontainers"
)

// otherMounts is a thread with a copy of the mounts, which is told of later ones, as that
// of a file system daemon is.
type otherMounts struct {
	calls   chan func() error
	answers chan error
}

func newOtherMounts(t *testing.T) *otherMounts {
	t.Helper()
	o := &otherMounts{make(chan func() error), make(chan error)}
	thread.Go(func() {
		for call := range o.calls {
			o.answers <- call()
		}
	})
	t.Cleanup(func() { close(o.calls) })
	err := o.do(func() error {
		return errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""))
	})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *otherMounts) do(call func() error) error {
	o.calls <- call
	return <-o.answers
}

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
	daemon := newOtherMounts(t)
	for place, private := range map[string]bool{"c1.1": true, "c1.2": false} {
		m := virtcontainers.HostMount{Type: "bind", Source: dir, Options: []string{"rbind"}, Target: "mounts/0", ReadOnly: true, Private: private}
		if err := s.add(place, []virtcontainers.HostMount{m}); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"new", "below/new"} {
			write := func() error {
				return os.WriteFile(filepath.Join(s.containerDir(place), "mounts/0", path), nil, 0o600)
			}
			for who, err := range map[string]error{"the shim": write(), "the daemon": daemon.do(write)} {
				if !errors.Is(err, unix.EROFS) {
					t.Errorf("private %v: to %s writing %s says %v", private, who, path, err)
				}
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
