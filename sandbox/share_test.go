package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// TestMain runs the tests in a mount namespace of their own, as a shim does.
func TestMain(m *testing.M) {
	const marker = "HYPER_TEST_MOUNT_NAMESPACE"
	if os.Getuid() == 0 && os.Getenv(marker) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), marker+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if err := cmd.Run(); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func newTestShare(t *testing.T) *share {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	s, err := newShare(filepath.Join(t.TempDir(), "share"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// testVolume is a directory with a file in it and one beside it.
func testVolume(t *testing.T) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	file = filepath.Join(dir, "file")
	for _, path := range []string{file, filepath.Join(dir, "beside")} {
		if err := os.WriteFile(path, []byte("content"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, file
}

func bind(source, target string, readonly bool) virtcontainers.HostMount {
	return virtcontainers.HostMount{Type: "bind", Source: source, Options: []string{"rbind"}, Target: target, ReadOnly: readonly}
}

func TestShareExposesWhatIsMountedAndNothingBeside(t *testing.T) {
	s := newTestShare(t)
	dir, file := testVolume(t)
	err := s.add("c1", []virtcontainers.HostMount{
		bind(dir, "rootfs", true), bind(dir, "mounts/0", false), bind(file, "mounts/1", true), bind(file, "hooks/0", true),
	})
	if err != nil {
		t.Fatal(err)
	}
	at := func(path string) string { return filepath.Join(s.containerDir("c1"), path) }
	if data, err := os.ReadFile(at("mounts/1")); err != nil || string(data) != "content" {
		t.Errorf("a bound file reads %q, %v", data, err)
	}
	if _, err := os.Stat(at("mounts/beside")); !os.IsNotExist(err) {
		t.Errorf("what is beside a bound file: %v", err)
	}
	for path, readonly := range map[string]bool{"rootfs/file": true, "mounts/0/file": false, "mounts/1": true} {
		err := os.WriteFile(at(path), []byte("written"), 0)
		if got := os.IsPermission(err) || err != nil && err.(*os.PathError).Err == unix.EROFS; got != readonly {
			t.Errorf("writing to %s: %v, read-only should be %v", path, err, readonly)
		}
	}
	for range 2 {
		if err := s.drop("c1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(s.containerDir("c1")); !os.IsNotExist(err) {
		t.Errorf("left after drop: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "beside")); err != nil {
		t.Errorf("the volume lost its content: %v", err)
	}
}

// TestMountPointsAreTheHostsAlone does by the share what a guest could do by its daemon.
func TestMountPointsAreTheHostsAlone(t *testing.T) {
	s := newTestShare(t)
	dir, _ := testVolume(t)
	victim := t.TempDir()
	if err := s.add("c1", []virtcontainers.HostMount{bind(dir, "mounts/0", false)}); err != nil {
		t.Fatal(err)
	}
	at := func(path string) string { return filepath.Join(s.containerDir("c1"), path) }
	for what, err := range map[string]error{
		"make a directory":      os.Mkdir(filepath.Join(s.dir, "c2"), 0o755),
		"make a link":           os.Symlink(victim, filepath.Join(s.dir, "c2")),
		"make one beside":       os.Symlink(victim, at("mounts/1")),
		"move mount points":     os.Rename(at("mounts"), at("elsewhere")),
		"move the container's":  os.Rename(s.containerDir("c1"), filepath.Join(s.dir, "c2")),
		"move into what it has": os.Rename(at("mounts"), at("mounts/0/mounts")),
		"remove":                os.Remove(at("mounts")),
		"change the mode":       os.Chmod(s.containerDir("c1"), 0o777),
	} {
		if err == nil {
			t.Errorf("a guest can %s", what)
		}
	}
	if err := os.WriteFile(at("mounts/0/new"), nil, 0o644); err != nil {
		t.Errorf("what is mounted cannot be written to: %v", err)
	}
	if err := s.drop("c1"); err != nil {
		t.Error(err)
	}
}

// TestPrivateBinds mounts below a shared source after it was bound.
func TestPrivateBinds(t *testing.T) {
	s := newTestShare(t)
	source := t.TempDir()
	later := filepath.Join(source, "later")
	if err := os.Mkdir(later, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, source, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(source, unix.MNT_DETACH) })
	if err := unix.Mount("", source, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	private := bind(source, "mounts/1", true)
	private.Private = true
	if err := s.add("c1", []virtcontainers.HostMount{bind(source, "mounts/0", false), private}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", later, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(later, unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(later, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	at := func(path string) string { return filepath.Join(s.containerDir("c1"), path) }
	if _, err := os.Stat(at("mounts/0/later/file")); err != nil {
		t.Errorf("the bind that is not private: %v", err)
	}
	if _, err := os.Stat(at("mounts/1/later/file")); !os.IsNotExist(err) {
		t.Errorf("the private bind: %v", err)
	}
	if err := os.WriteFile(at("mounts/1/x"), nil, 0o644); err == nil || err.(*os.PathError).Err != unix.EROFS {
		t.Errorf("writing to the private read-only bind: %v", err)
	}
	if err := s.drop("c1"); err != nil {
		t.Fatal(err)
	}
}

// nestedVolume is a volume with a mount in a directory of it.
func nestedVolume(t *testing.T) string {
	t.Helper()
	dir, _ := testVolume(t)
	nested := filepath.Join(dir, "a", "nested")
	if err := os.MkdirAll(nested, 0o755); err != nil {
		t.Fatal(err)
	}
	mountTmpfs(t, nested)
	return dir
}

func mountTmpfs(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// TestTheGuestDoesNotChooseWhatIsUnmounted has a link come and go in the place of a
// directory that something is mounted in, as by a guest that may write there.
func TestTheGuestDoesNotChooseWhatIsUnmounted(t *testing.T) {
	s := newTestShare(t)
	dir := nestedVolume(t)
	victim := t.TempDir()
	of := filepath.Join(victim, "nested")
	if err := os.Mkdir(of, 0o755); err != nil {
		t.Fatal(err)
	}
	mountTmpfs(t, of)
	if err := os.Symlink(victim, filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	var guest sync.WaitGroup
	done := make(chan struct{})
	guest.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, dir+"/a", unix.AT_FDCWD, dir+"/b", unix.RENAME_EXCHANGE); err != nil {
				t.Errorf("the guest: %v", err)
				return
			}
		}
	})
	for range 50 {
		if err := s.add("c1", []virtcontainers.HostMount{bind(dir, "mounts/0", false)}); err != nil {
			t.Error(err)
			break
		}
		if err := s.drop("c1"); err != nil {
			t.Error(err)
			break
		}
		if mounted, err := mountinfo.Mounted(of); err != nil || !mounted {
			t.Errorf("what the guest's link leads to is unmounted (%v)", err)
			break
		}
	}
	close(done)
	guest.Wait()
	// The source's mount is where cleaning up finds it.
	if info, err := os.Lstat(filepath.Join(dir, "a")); err == nil && !info.IsDir() {
		if err := unix.Renameat2(unix.AT_FDCWD, dir+"/a", unix.AT_FDCWD, dir+"/b", unix.RENAME_EXCHANGE); err != nil {
			t.Error(err)
		}
	}
}

// TestTheDaemonLosesWhatIsDropped looks at the mounts of another process, as the daemon's.
func TestTheDaemonLosesWhatIsDropped(t *testing.T) {
	s := newTestShare(t)
	daemon := exec.Command("sleep", "100")
	daemon.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		daemon.Process.Kill()
		daemon.Wait()
	})
	of := func() (mounts []string) {
		f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", daemon.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		infos, err := mountinfo.GetMountsFromReader(f, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range infos {
			if rest, ok := strings.CutPrefix(m.Mountpoint, s.containerDir("c1")+"/"); ok {
				mounts = append(mounts, rest)
			}
		}
		return mounts
	}
	dir := nestedVolume(t)
	over, _ := testVolume(t)
	for range 2 {
		if err := s.add("c1", []virtcontainers.HostMount{bind(dir, "rootfs", false), bind(dir, "mounts/0", true), bind(over, "mounts/0", false)}); err != nil {
			t.Fatal(err)
		}
		if has := of(); len(has) != 5 {
			t.Errorf("it has %q", has)
		}
		if err := s.drop("c1"); err != nil {
			t.Fatal(err)
		}
		if has := of(); len(has) != 0 {
			t.Errorf("it keeps %q", has)
		}
	}
}

func TestAFailedAddLeavesNothing(t *testing.T) {
	s := newTestShare(t)
	dir, _ := testVolume(t)
	err := s.add("c1", []virtcontainers.HostMount{bind(dir, "rootfs", false), bind(filepath.Join(dir, "missing"), "mounts/0", false)})
	if err == nil {
		t.Fatal("bound a source that does not exist")
	}
	if _, err := os.Stat(s.containerDir("c1")); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}

func TestRemovingMountPointsSparesWhatIsStillMounted(t *testing.T) {
	s := newTestShare(t)
	dir, file := testVolume(t)
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, m := range []virtcontainers.HostMount{bind(dir, "rootfs", false), bind(dir, "mounts/0", false), bind(empty, "mounts/0", false)} {
		if err := s.add("c1", []virtcontainers.HostMount{m}); err != nil {
			t.Fatal(err)
		}
		if err := removeMountPoints(s.pointsDir("c1")); err == nil {
			t.Errorf("removed %s with its mount", m.Target)
		}
		for _, path := range []string{file, empty} {
			if _, err := os.Stat(path); err != nil {
				t.Errorf("data is gone: %v", err)
			}
		}
		if err := s.drop("c1"); err != nil {
			t.Fatal(err)
		}
	}
}
