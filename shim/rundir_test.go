package shim

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestARunDirectoryIsNotRemovedWithAVolumeInIt(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	volume := t.TempDir()
	precious := filepath.Join(volume, "precious")
	if err := os.WriteFile(precious, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := makeRunDir(t.TempDir(), "unix:///x")
	if err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(d.sandbox(), "share", "c1", "rootfs")
	if err := os.MkdirAll(below, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(volume, below, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	err = d.remove()
	if uerr := unix.Unmount(below, unix.MNT_DETACH); uerr != nil {
		t.Fatal(uerr)
	}
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("removing it with a mount in it: %v", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("the volume's file: %v", err)
	}
	if err := d.remove(); err != nil {
		t.Error(err)
	}
}
