package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

func TestMemorySize(t *testing.T) {
	const total = 256 << 20
	for want, held := range map[uint64]uint64{0: total / 2, 1 << 20: 1 << 20, total: total, total + 1: total / 2, 1 << 40: total / 2} {
		if got := memorySize(want, total); got != held {
			t.Errorf("of %d bytes it holds %d, want %d", want, got, held)
		}
	}
}

func TestValidateMemoryVolume(t *testing.T) {
	const target = volumesDir + "/c/mounts/0"
	for name, c := range map[string]struct {
		m  *agentv1.MemoryVolume
		ok bool
	}{
		"whole":          {&agentv1.MemoryVolume{Id: "a1", Target: target}, true},
		"part":           {&agentv1.MemoryVolume{Id: "a1", Target: target, Path: "a/b"}, true},
		"no id":          {&agentv1.MemoryVolume{Target: target}, false},
		"a path as id":   {&agentv1.MemoryVolume{Id: "../x", Target: target}, false},
		"part outside":   {&agentv1.MemoryVolume{Id: "a1", Target: target, Path: "../x"}, false},
		"absolute part":  {&agentv1.MemoryVolume{Id: "a1", Target: target, Path: "/etc"}, false},
		"another's":      {&agentv1.MemoryVolume{Id: "a1", Target: volumesDir + "/d/mounts/0"}, false},
		"target outside": {&agentv1.MemoryVolume{Id: "a1", Target: volumesDir + "/c/../../x"}, false},
	} {
		if err := validateMemoryVolume("c", c.m); (err == nil) != c.ok || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPartsOfMemoryVolumes has links in a volume that one container has made to lead
// another out of it.
func TestPartsOfMemoryVolumes(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "there"), 0o700),
		os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600),
		os.Symlink("there", filepath.Join(dir, "inside")),
		os.Symlink(outside, filepath.Join(dir, "absolute")),
		os.Symlink("../../..", filepath.Join(dir, "relative")),
	)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for path, want := range map[string]string{"": dir, "there": dir + "/there", "inside": dir + "/there", "file": dir + "/file", "new/deep": dir + "/new/deep"} {
		f, err := openPartOf(root, &agentv1.MemoryVolume{Path: path, Part: &agentv1.Attributes{Mode: 0o2750, Uid: uid, Gid: gid}})
		if err != nil {
			t.Errorf("%q: %v", path, err)
			continue
		}
		got, err1 := f.Stat()
		expected, err2 := os.Stat(want)
		if err1 != nil || err2 != nil || !os.SameFile(got, expected) {
			t.Errorf("%q opens something else than %s: %v, %v", path, want, err1, err2)
		}
		f.Close()
	}
	if info, err := os.Stat(filepath.Join(dir, "new/deep")); err != nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o750 {
		t.Errorf("the part that was made is %v, %v", info, err)
	}
	for _, path := range []string{"absolute", "relative", "absolute/new", "relative/etc"} {
		if f, err := openPartOf(root, &agentv1.MemoryVolume{Path: path}); err == nil {
			f.Close()
			t.Errorf("%q was opened", path)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside there is %v, %v", entries, err)
	}
}
