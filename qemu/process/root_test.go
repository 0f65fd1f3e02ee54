package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// hostPrograms is a root with what a shell script needs.
func hostPrograms(more ...string) *Root {
	return &Root{Start: append([]string{"/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"}, more...)}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make a mount namespace")
	}
}

// held is a process that waits with its work half done.
type held struct {
	*Process
	release *os.File
}

// hold runs a script in a root. When the script says "hold" it waits until it is let go.
func hold(t *testing.T, root *Root, script string) *held {
	t.Helper()
	goOn, release, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	there, reached, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := shell(t, "hold() { echo >&4; read line <&3; }; "+script, func(s *Spec) {
		s.Root = root
		s.User = &User{UID: 123456, GID: 123456}
		s.Env = []string{"PATH=/usr/bin"}
		s.Files = []*os.File{goOn, reached}
	})
	goOn.Close()
	reached.Close()
	t.Cleanup(func() { release.Close(); there.Close() })
	if _, err := there.Read(make([]byte, 1)); err != nil {
		t.Fatalf("it does not come to where it waits: %v: %s", err, p.Log())
	}
	return &held{Process: p, release: release}
}

// finish lets the script go and returns what it has printed.
func (h *held) finish(t *testing.T) string {
	t.Helper()
	h.release.Close()
	waitDone(t, h.Process)
	return h.Log()
}

func checkText(t *testing.T, got string, want ...string) {
	t.Helper()
	if text := strings.Join(want, "\n"); got != text {
		t.Errorf("got\n%s\nwant\n%s", got, text)
	}
}

func TestRootShowsNothingElse(t *testing.T) {
	needRoot(t)
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, []byte("here"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := shell(t, `pwd; echo /*; echo /etc/*; cat `+canary+` /etc/passwd; echo /proc/[a-z]*; cat /proc/1/status
		for d in '' /usr /etc /proc; do touch $d/file; done; wc -l < /proc/self/mounts`, func(s *Spec) {
		s.Root = hostPrograms("/missing")
		s.User = &User{UID: 123456, GID: 123456}
		s.Env = []string{"PATH=/usr/bin"}
	})
	waitDone(t, p)
	checkText(t, p.Log(),
		"/",
		"/bin /etc /lib /lib64 /proc /usr",
		"/etc/ld.so.cache",
		"cat: "+canary+": No such file or directory",
		"cat: /etc/passwd: No such file or directory",
		"/proc/self /proc/thread-self",
		"cat: /proc/1/status: No such file or directory",
		"touch: cannot touch '/file': Read-only file system",
		"touch: cannot touch '/usr/file': Read-only file system",
		"touch: cannot touch '/etc/file': Read-only file system",
		"touch: cannot touch '/proc/file': No such file or directory",
		"4", // the root, /proc, /usr, /etc/ld.so.cache
	)
	if _, err := os.Stat("/missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory was made on the host: %v", err)
	}
}

// TestRootPlaces shows files, directories and links at their places, whatever is below
// or above another of them, and sees that no place is made on the host.
func TestRootPlaces(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"a/b/file", "a/file", "c/file", "kept/deep/file", "kept/other"} {
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), []byte(name+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"link": "c", "dangling": "nowhere", "c/up": "../a/file"} {
		if err := os.Symlink(target, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	root := hostPrograms(at("a/b/file"), at("a"), at("a/b"), at("a/none"), at("link"), at("link/none"), at("dangling"), at("kept"))
	root.Keep = []string{at("kept/deep")}
	h := hold(t, root, "cd "+dir+`; cat a/file a/b/file link/file link/up kept/deep/file kept/other
		hold; cd `+dir+`; echo * a/* kept/*; read line < kept/deep/file; echo $line; cat kept/deep/file`)
	if err := h.Settle(); err != nil {
		t.Fatal(err)
	}
	checkText(t, h.finish(t),
		"a/file", "a/b/file", "c/file", "a/file", "kept/deep/file", "kept/other",
		"a c dangling kept link a/b kept/deep", "kept/deep/file", "/bin/sh: 2: cat: not found")
	for _, pattern := range []string{"*/none", "kept/deep/*/*"} {
		if made, err := filepath.Glob(at(pattern)); err != nil || len(made) > 0 {
			t.Errorf("made on the host: %v, %v", made, err)
		}
	}
}

// TestSettled looks at a process that has started from outside, as root.
func TestSettled(t *testing.T) {
	needRoot(t)
	root := hostPrograms()
	root.Keep = []string{"/dev/null"}
	h := hold(t, root, "hold; echo > /dev/null && echo kept")
	if err := h.Settle(); err != nil {
		t.Fatal(err)
	}
	inside := fmt.Sprintf("/proc/%d/root", h.PID())
	var seen []string
	err := filepath.WalkDir(inside+"/", func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			seen = append(seen, strings.TrimPrefix(path, inside))
		}
		return err
	})
	// What is left of the others is where they were.
	if want := []string{"/bin", "/dev/null", "/etc/ld.so.cache", "/lib", "/lib64"}; err != nil || !slices.Equal(seen, want) {
		t.Errorf("there are %q, %v, want %q", seen, err, want)
	}
	if b, err := os.ReadFile(inside + "/etc/ld.so.cache"); err != nil || len(b) > 0 {
		t.Errorf("the place of a file has %d bytes, %v", len(b), err)
	}
	for _, name := range []string{"file", "etc/ld.so.cache", "tmp/file"} {
		if err := os.WriteFile(filepath.Join(inside, name), nil, 0o644); !errors.Is(err, unix.EROFS) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("writing %s: %v", name, err)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", h.PID()))
	if n := strings.Count(string(mounts), "\n"); err != nil || n != 2 {
		t.Errorf("%d mounts, %v:\n%s", n, err, mounts)
	}
	checkText(t, h.finish(t), "kept")
	if err := h.Settle(); err != nil {
		t.Errorf("settling a process that is gone: %v", err)
	}
}

// TestRootKeepsNothingMounted has a device in use when processes start: they do not
// keep it so.
func TestRootKeepsNothingMounted(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	host(t, "mkfs.ext4", "-q", image)
	device := host(t, "losetup", "--find", "--show", image)
	t.Cleanup(func() { host(t, "losetup", "--detach", device) })
	target := filepath.Join(dir, "mounted")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(device, target, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	settled := hold(t, hostPrograms(), "hold")
	if err := settled.Settle(); err != nil {
		t.Fatal(err)
	}
	started := hold(t, hostPrograms(), "hold")
	if err := unix.Unmount(target, 0); err != nil {
		t.Fatalf("unmounting what was mounted before: %v", err)
	}
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Errorf("the device is still in use: %v", err)
	} else {
		unix.Close(fd)
	}
	checkText(t, settled.finish(t)+started.finish(t), "")
}

// host runs a command of the host and returns what it prints, or skips the test where
// there is none.
func host(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("no %s here", name)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestRootOfThreads starts processes with a root and without by turns: none of the
// latter may land on a thread that has one. No thread of this process stays elsewhere,
// because a mount namespace would end only after it, and what is mounted there too.
func TestRootOfThreads(t *testing.T) {
	needRoot(t)
	home, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		rooted := shell(t, "exit 0", func(s *Spec) { s.Root = hostPrograms() })
		free := shell(t, "ls -d /root", nil)
		waitDone(t, rooted)
		if err := rooted.Settle(); err != nil {
			t.Error(err)
		}
		waitDone(t, free)
		if free.Log() != "/root" {
			t.Fatalf("round %d: a process landed on a thread with a root: %s", i, free.Log())
		}
		threads, err := filepath.Glob("/proc/self/task/*/ns/mnt")
		if err != nil || len(threads) == 0 {
			t.Fatalf("threads: %q, %v", threads, err)
		}
		for _, thread := range threads {
			if ns, err := os.Readlink(thread); err == nil && ns != home {
				t.Fatalf("round %d: a thread is in %s", i, ns)
			}
		}
	}
}

// TestRootErrors: a program that the root lacks is not found, whatever the host has.
func TestRootErrors(t *testing.T) {
	needRoot(t)
	_, err := Start(Spec{Path: "/bin/true", Root: &Root{Start: []string{"/etc"}}})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "/bin/true") {
		t.Errorf("Start() = %v", err)
	}
	_, err = Start(Spec{Path: "/bin/true", Root: &Root{Start: []string{"/etc/passwd/no"}}})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "/etc/passwd/no") {
		t.Errorf("Start() = %v", err)
	}
}
