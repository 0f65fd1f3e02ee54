package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

func TestFindMemoryVolume(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	pod := t.TempDir()
	emptyDirs := filepath.Join(pod, "volumes", "kubernetes.io~empty-dir")
	cache, disk := filepath.Join(emptyDirs, "cache"), filepath.Join(emptyDirs, "disk")
	part, ofDisk := filepath.Join(pod, "volume-subpaths", "cache", "c", "0"), filepath.Join(pod, "volume-subpaths", "disk", "c", "0")
	other := filepath.Join(pod, "volumes", "kubernetes.io~csi", "cache")
	mountTmpfs := func(dir string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(dir, 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	}
	bind := func(source, target string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(source, 0o750), os.MkdirAll(target, 0o755), unix.Mount(source, target, "", unix.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(target, unix.MNT_DETACH) })
	}
	mountTmpfs(cache)
	mountTmpfs(other)
	if err := errors.Join(os.Chown(cache, 1, 2), os.Chmod(cache, 0o777|os.ModeSetgid), os.MkdirAll(disk, 0o755)); err != nil {
		t.Fatal(err)
	}
	bind(filepath.Join(cache, "a", "b"), part)
	bind(filepath.Join(disk, "a"), ofDisk)
	root := virtcontainers.Attributes{Mode: 0o2777, UID: 1, GID: 2}
	for source, want := range map[string]*virtcontainers.MemoryVolume{
		cache: {Name: cache, Size: 4 << 20, Root: root, Directory: root},
		// A new directory takes its group from the one above, as it does for kubelet.
		part:                      {Name: cache, Part: "a/b", Size: 4 << 20, Root: root, Directory: virtcontainers.Attributes{Mode: 0o2750, GID: 2}},
		disk:                      nil,
		ofDisk:                    nil,
		other:                     nil,
		filepath.Join(cache, "a"): nil,
	} {
		got, ok := inspectSources([]string{source}).memory[source]
		if want == nil && ok || want != nil && got != *want {
			t.Errorf("%s: %+v, %v; want %+v", source, got, ok, want)
		}
	}
}
