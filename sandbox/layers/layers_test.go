package layers

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types"
	"golang.org/x/sys/unix"
)

// needRoot skips tests that mount, and gives those that do a mount namespace for their
// thread.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	if err := CanBuild(); err != nil {
		t.Skip(err)
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOverlayOf(t *testing.T) {
	overlay := func(options ...string) []*types.Mount {
		return []*types.Mount{{Type: "overlay", Source: "overlay", Options: options}}
	}
	for _, test := range []struct {
		name   string
		mounts []*types.Mount
		want   Overlay
		says   string
	}{
		{"one layer", overlay("index=off", "workdir=/s/2/work", "upperdir=/s/2/fs", "lowerdir=/s/1/fs"), Overlay{[]string{"/s/1/fs"}, "/s/2/fs"}, ""},
		{"three layers", overlay("upperdir=/s/4/fs", "lowerdir=/s/3/fs:/s/2/fs:/s/1/fs"), Overlay{[]string{"/s/3/fs", "/s/2/fs", "/s/1/fs"}, "/s/4/fs"}, ""},
		{"a view", overlay("lowerdir=/s/2/fs:/s/1/fs"), Overlay{Lower: []string{"/s/2/fs", "/s/1/fs"}}, ""},
		{"none", nil, Overlay{}, "none"},
		{"a bind", []*types.Mount{{Type: "bind", Source: "/s/1/fs", Options: []string{"rbind", "rw"}}}, Overlay{}, "bind"},
		{"two mounts", append(overlay("lowerdir=/a"), overlay("lowerdir=/b")...), Overlay{}, "overlay, overlay"},
		{"mapped ids", overlay("uidmap=0:1000:1", "lowerdir=/a"), Overlay{}, "uidmap"},
		{"volatile", overlay("volatile", "lowerdir=/a"), Overlay{}, "volatile"},
		{"a relative layer", overlay("lowerdir=a"), Overlay{}, `"a"`},
		{"a comma", overlay("lowerdir=/a,b"), Overlay{}, `"/a,b"`},
		{"an escaped colon", overlay(`lowerdir=/a\:b`), Overlay{}, `"/a\\"`},
		{"no layer", overlay("upperdir=/a"), Overlay{}, "no lower"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := OverlayOf(test.mounts)
			if test.says == "" {
				if err != nil || !slices.Equal(got.Lower, test.want.Lower) || got.Upper != test.want.Upper {
					t.Errorf("got %+v, %v", got, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %+v, %v, want an error that says %s", got, err, test.says)
			}
		})
	}
}

func TestKeyFollowsTheLayers(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	must(t, os.Mkdir(a, 0o755))
	must(t, os.Mkdir(b, 0o755))
	key := func(lower ...string) string {
		t.Helper()
		k, err := Key(lower)
		if err != nil {
			t.Skipf("the file system of %s: %v", dir, err)
		}
		if !isKey(k) {
			t.Errorf("%q is no key", k)
		}
		return k
	}
	first := key(a, b)
	if again := key(a, b); again != first {
		t.Errorf("the same layers have the keys %s and %s", first, again)
	}
	if key(b, a) == first || key(a) == first {
		t.Error("other layers have the same key")
	}
	must(t, os.Remove(b))
	must(t, os.Mkdir(b, 0o755))
	if key(a, b) == first {
		t.Error("a layer that was made again has the old one's key")
	}
	if _, err := Key([]string{filepath.Join(dir, "none")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing layer: %v", err)
	}
	if _, err := Key([]string{"/proc/self"}); err == nil {
		t.Error("a layer in /proc has a key")
	}
}

// layered makes two layers, the upper of which takes away from the lower.
func layered(t *testing.T) (lower []string) {
	t.Helper()
	dir := t.TempDir()
	top, base := filepath.Join(dir, "top"), filepath.Join(dir, "base")
	write(t, filepath.Join(base, "kept"), "kept", 0o644)
	write(t, filepath.Join(base, "deleted"), "deleted", 0o644)
	write(t, filepath.Join(base, "opaque/old"), "old", 0o644)
	write(t, filepath.Join(base, "setuid"), "x", 0o755)
	write(t, filepath.Join(top, "opaque/new"), "new", 0o600)
	must(t, os.Chmod(filepath.Join(base, "setuid"), 0o755|os.ModeSetuid))
	must(t, os.Link(filepath.Join(base, "kept"), filepath.Join(base, "linked")))
	must(t, os.Symlink("kept", filepath.Join(base, "symbolic")))
	must(t, os.Lchown(filepath.Join(base, "kept"), 1000, 29))
	must(t, os.Chtimes(filepath.Join(base, "kept"), time.Unix(1e9, 0), time.Unix(1e9, 500)))
	must(t, unix.Mkfifo(filepath.Join(base, "fifo"), 0o640))
	must(t, unix.Mknod(filepath.Join(base, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(filepath.Join(top, "deleted"), unix.S_IFCHR, 0))
	must(t, unix.Setxattr(filepath.Join(top, "opaque"), "trusted.overlay.opaque", []byte("y"), 0))
	must(t, unix.Setxattr(filepath.Join(base, "kept"), "user.color", []byte("red"), 0))
	// CAP_NET_RAW, as setcap(8) writes it.
	must(t, unix.Setxattr(filepath.Join(base, "setuid"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	sparse, err := os.Create(filepath.Join(base, "sparse"))
	must(t, err)
	must(t, sparse.Truncate(1<<20))
	_, err = sparse.WriteAt([]byte("end"), 1<<20-3)
	must(t, errors.Join(err, sparse.Close()))
	return []string{top, base}
}

func TestBuiltImageHasTheLayers(t *testing.T) {
	needRoot(t)
	lower := layered(t)
	c := Cache{Dir: filepath.Join(t.TempDir(), "cache"), MaxBytes: 64 << 20}
	must(t, c.Build(t.Context(), lower))
	key, err := Key(lower)
	must(t, err)
	f, err := c.Open(key)
	must(t, err)
	defer f.Close()
	dir := mountImage(t, f.Name())

	for path, want := range map[string]string{"kept": "kept", "linked": "kept", "opaque/new": "new"} {
		if got, err := os.ReadFile(filepath.Join(dir, path)); string(got) != want {
			t.Errorf("%s has %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"deleted", "opaque/old"} {
		if _, err := os.Lstat(filepath.Join(dir, path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there: %v", path, err)
		}
	}
	// The image has all that a stat of the layers' overlay shows but inode and device.
	for _, path := range []string{"kept", "linked", "symbolic", "fifo", "null", "setuid", "sparse"} {
		var here, there unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dir, path), &here))
		must(t, unix.Lstat(filepath.Join(lower[1], path), &there))
		if here.Mode != there.Mode || here.Uid != there.Uid || here.Gid != there.Gid || here.Rdev != there.Rdev ||
			here.Size != there.Size || here.Nlink != there.Nlink || here.Mtim.Sec != there.Mtim.Sec {
			t.Errorf("%s is %+v\nwant %+v", path, here, there)
		}
	}
	for path, name := range map[string]string{"kept": "user.color", "setuid": "security.capability"} {
		if here, there := xattr(t, filepath.Join(dir, path), name), xattr(t, filepath.Join(lower[1], path), name); here != there {
			t.Errorf("%s of %s is %q, want %q", name, path, here, there)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(c.Dir, "*.building")); len(left) > 0 {
		t.Errorf("left: %s", left)
	}
}

func xattr(t *testing.T, path, name string) string {
	t.Helper()
	value := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, value)
	must(t, err)
	return string(value[:n])
}

// mountImage mounts an image by a loop device, which goes with the mount.
func mountImage(t *testing.T, image string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "ro,loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("this host cannot mount an EROFS image: %v: %s", err, out)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestDamagedImagesAreRemoved(t *testing.T) {
	needRoot(t)
	lower := layered(t)
	key, err := Key(lower)
	must(t, err)
	for name, damage := range map[string]func(path string) error{
		"short":             func(path string) error { return os.Truncate(path, 4096) },
		"empty":             func(path string) error { return os.Truncate(path, 0) },
		"too long":          func(path string) error { return os.Truncate(path, 1<<30) },
		"changed at a byte": func(path string) error { return writeAt(path, 1024+20, "\xff") },
		"no superblock":     func(path string) error { return writeAt(path, 1024, strings.Repeat("\x00", 128)) },
	} {
		t.Run(name, func(t *testing.T) {
			c := Cache{Dir: t.TempDir(), MaxBytes: 64 << 20}
			must(t, c.Build(t.Context(), lower))
			path := c.file(key, imageSuffix)
			must(t, damage(path))
			if f, err := c.Open(key); !errors.Is(err, fs.ErrNotExist) {
				f.Close()
				t.Fatalf("opening it: %v", err)
			}
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it is still there: %v", err)
			}
			if !c.Wanted(key) {
				t.Error("it is not wanted again")
			}
			must(t, c.Build(t.Context(), lower))
			f, err := c.Open(key)
			must(t, err)
			f.Close()
		})
	}
}

func writeAt(path string, at int64, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), at)
	return errors.Join(err, f.Close())
}

func TestOneBuilder(t *testing.T) {
	needRoot(t)
	lower := layered(t)
	key, err := Key(lower)
	must(t, err)
	c := Cache{Dir: t.TempDir(), MaxBytes: 64 << 20}
	other, err := c.claim(key)
	must(t, err)
	must(t, writeAt(other.Name(), 0, "half an image"))
	if c.Wanted(key) {
		t.Error("an image is wanted that another builds")
	}
	must(t, c.Build(t.Context(), lower))
	if _, err := c.Open(key); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("there is an image: %v", err)
	}
	// The other one dies.
	must(t, other.Close())
	must(t, c.Build(t.Context(), lower))
	f, err := c.Open(key)
	must(t, err)
	f.Close()
}

func TestFailureIsNotTriedAgain(t *testing.T) {
	needRoot(t)
	lower := layered(t)
	key, err := Key(lower)
	must(t, err)
	c := Cache{Dir: t.TempDir(), MaxBytes: 64 << 10} // the sparse file alone is larger
	if err := c.Build(t.Context(), lower); err == nil {
		t.Fatal("an image that is too large was built")
	}
	if c.Wanted(key) {
		t.Error("it is wanted again")
	}
	entries, err := os.ReadDir(c.Dir)
	must(t, err)
	if len(entries) != 1 || entries[0].Name() != key+failedSuffix {
		t.Errorf("left: %s", entries)
	}
	old := time.Now().Add(-2 * failureLasts)
	must(t, os.Chtimes(c.file(key, failedSuffix), old, old))
	if !c.Wanted(key) {
		t.Error("after a day it is not wanted again")
	}
}

func TestPruneRemovesWhatWasNotUsedForLongest(t *testing.T) {
	c := Cache{Dir: t.TempDir(), MaxBytes: 3 * 8192}
	key := func(i int) string { return strings.Repeat("abcdef"[i:i+1], 32) }
	for i := range 5 {
		path := c.file(key(i), imageSuffix)
		write(t, path, strings.Repeat("x", 8192), 0o600)
		at := time.Now().Add(-time.Duration(i) * time.Hour)
		must(t, os.Chtimes(path, at, at))
	}
	write(t, c.file(key(5), buildingSuffix), "of a builder that died", 0o600)
	write(t, filepath.Join(c.Dir, "not-ours"), "x", 0o600)
	must(t, c.prune(key(0)))
	var left []string
	entries, err := os.ReadDir(c.Dir)
	must(t, err)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	want := []string{key(0) + imageSuffix, key(1) + imageSuffix, key(2) + imageSuffix, "not-ours"}
	if !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
}

func TestScratchIsSparseAndNameless(t *testing.T) {
	if _, err := lookMkfsExt4(); err != nil {
		t.Skip(err)
	}
	c := Cache{Dir: t.TempDir()}
	must(t, c.MakeEmpty(t.Context(), 1024))
	must(t, c.MakeEmpty(t.Context(), 1024))
	empty, err := c.OpenEmpty(1024)
	must(t, err)
	defer empty.Close()
	if info, err := empty.Stat(); err != nil || allocated(info) > 1<<20 {
		t.Errorf("the empty one takes %d bytes, %v", allocated(info), err)
	}
	dir := t.TempDir()
	scratch, err := Copy(empty, dir)
	must(t, err)
	defer scratch.Close()
	info, err := scratch.Stat()
	must(t, err)
	if info.Size() != 1024<<20 || allocated(info) > 1<<20 {
		t.Errorf("it has %d bytes and takes %d", info.Size(), allocated(info))
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("it has the name %s", entries)
	}
	magic := make([]byte, 2)
	if _, err := scratch.ReadAt(magic, 1024+0x38); err != nil || string(magic) != "\x53\xef" {
		t.Errorf("it has no superblock of ext4: %x, %v", magic, err)
	}
}
