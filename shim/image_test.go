package shim

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

func TestBuilderIsToldWhatToBuild(t *testing.T) {
	cmd := imageBuilder([]string{"/s/2/fs", "/s/1/fs"}, []string{"/run/hyper/x/share", "/run/task"})
	got, err := parseFlags(cmd.Args[1:], io.Discard)
	want := invocation{Action: actionBuildImage, Layers: "/s/2/fs:/s/1/fs", KeepOut: "/run/hyper/x/share:/run/task"}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if code := Main([]string{actionBuildImage}); code != 1 {
		t.Errorf("without layers it ended with %d", code)
	}
}

// TestBuilderKeepsNoMounts has a mount where a builder must not keep one.
func TestBuilderKeepsNoMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"out/a", "out/a/b", "in"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
	}
	if err := leaveMounts([]string{filepath.Join(dir, "out"), "", filepath.Join(dir, "none")}); err != nil {
		t.Fatal(err)
	}
	left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil || len(left) != 1 || left[0].Mountpoint != filepath.Join(dir, "in") {
		t.Errorf("left are %v, %v", left, err)
	}
	if err := unix.Unmount(filepath.Join(dir, "in"), 0); err != nil {
		t.Error(err)
	}
}
