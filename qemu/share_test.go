package qemu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/virtiofsd"
	"github.com/hyperhq/hyper/virtcontainers"
)

// share starts a daemon for a new directory whose mounts are shared.
func share(t *testing.T) (dir string, daemon *virtiofsd.Daemon) {
	t.Helper()
	if os.Getenv(privateEnv) == "" {
		t.Skip("no mount namespace of our own")
	}
	if _, err := virtiofsd.Find(t.Context(), ""); errdefs.IsNotFound(err) {
		t.Skip(err)
	}
	dir = t.TempDir()
	bind(t, dir, dir)
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	daemon, err := virtiofsd.Start(t.Context(), virtiofsd.Config{Dir: dir, SocketDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("virtiofsd: %s", daemon.Log())
		}
		daemon.Socket.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := daemon.Kill(ctx); err != nil {
			t.Error(err)
		}
	})
	return dir, daemon
}

func bind(t *testing.T, source, target string) {
	t.Helper()
	if err := os.MkdirAll(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestShare(t *testing.T) {
	machines(t, func(t *testing.T, d *Driver) {
		spec := testSpec(t)
		dir, daemon := share(t)
		write(t, filepath.Join(dir, "before"), "before")
		spec.Share = &virtcontainers.Share{Tag: "test,share", Socket: daemon.Socket}
		vm := start(t, d, spec)
		daemon.Socket.Close()
		g := connect(t, vm)
		g.ask(t, "mount", "virtiofs", "test,share", "/share")
		if got := g.ask(t, "cat", "/share/before"); got != "before" {
			t.Errorf("the guest reads %q", got)
		}
		g.ask(t, "write", "/share/from-guest", "hello")
		if b, err := os.ReadFile(filepath.Join(dir, "from-guest")); err != nil || string(b) != "hello" {
			t.Errorf("the host reads %q, %v", b, err)
		}
		g.ask(t, "setxattr", "/share/from-guest", "user.test", "value")
		value := make([]byte, 16)
		if n, err := unix.Getxattr(filepath.Join(dir, "from-guest"), "user.test", value); err != nil || string(value[:n]) != "value" {
			t.Errorf("the host reads the attribute %q, %v", value[:max(n, 0)], err)
		}
		checkLaterMounts(t, dir, g)
		checkRelease(t, dir, daemon, g)
		if err := vm.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-daemon.Done():
		case <-time.After(10 * time.Second):
			t.Error("the daemon outlives its only QEMU")
		}
	})
}

// checkLaterMounts binds two directories of different file systems into a share in
// use: the guest sees both, on devices of their own.
func checkLaterMounts(t *testing.T, dir string, g *guest) {
	t.Helper()
	sources := map[string]string{"a": t.TempDir(), "b": t.TempDir()}
	if err := unix.Mount("tmpfs", sources["b"], "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(sources["b"], unix.MNT_DETACH) })
	devices := map[string]bool{device(g.ask(t, "stat", "/share")): true}
	for name, source := range sources {
		write(t, filepath.Join(source, "file"), "in "+name)
		bind(t, source, filepath.Join(dir, name))
		if got := g.ask(t, "cat", "/share/"+name+"/file"); got != "in "+name {
			t.Errorf("the guest reads %q in %s", got, name)
		}
		devices[device(g.ask(t, "stat", "/share/"+name+"/file"))] = true
	}
	if len(devices) != 3 {
		t.Errorf("file systems of the host have collapsed into the devices %v", devices)
	}
}

// checkRelease unmounts on the host what the guest has used. The daemon holds open
// what the guest knows of, and with it the host's file system: so the guest must
// unmount it, and forget it.
func checkRelease(t *testing.T, dir string, daemon *virtiofsd.Daemon, g *guest) {
	t.Helper()
	if !holds(t, daemon, "/a/file") || !holds(t, daemon, "/b/file") {
		t.Error("the daemon does not hold what the guest has read")
	}
	g.ask(t, "unmount", "/share/a")
	g.ask(t, "unmount", "/share/b")
	g.ask(t, "write", "/proc/sys/vm/drop_caches", "2")
	// The daemon is told so in the order of the guest's requests, more or less.
	g.ask(t, "stat", "/share/before")
	for _, name := range []string{"a", "b"} {
		if holds(t, daemon, "/"+name+"/file") {
			t.Errorf("the daemon still holds a file in %s", name)
		}
		if err := unix.Unmount(filepath.Join(dir, name), 0); err != nil {
			t.Errorf("unmount %s on the host: %v", name, err)
		}
		if _, err := g.try("cat", "/share/"+name+"/file"); err == nil {
			t.Errorf("the guest still reads what was unmounted in %s", name)
		}
	}
}

// holds says whether the sandboxed half of a daemon has a file of the share open.
func holds(t *testing.T, daemon *virtiofsd.Daemon, path string) bool {
	t.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", daemon.PID()))
	if err != nil {
		t.Skipf("this kernel does not list children: %v", err)
	}
	for child := range strings.FieldsSeq(string(children)) {
		links, _ := filepath.Glob("/proc/" + child + "/fd/*")
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && target == path {
				return true
			}
		}
	}
	return false
}

func device(stat string) string {
	dev, _, _ := strings.Cut(stat, " ")
	return dev
}

func TestDaemonDeathIsSeen(t *testing.T) {
	d := newDriver(t, Config{})
	spec := testSpec(t)
	_, daemon := share(t)
	spec.Share = &virtcontainers.Share{Tag: "s", Socket: daemon.Socket}
	vm := start(t, d, spec)
	g := connect(t, vm)
	g.ask(t, "mount", "virtiofs", "s", "/share")
	if err := unix.Kill(daemon.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-daemon.Done():
	case <-time.After(time.Second):
		t.Fatal("the daemon's death is not seen")
	}
	if daemon.Err() == nil {
		t.Error("Err() = nil")
	}
	// What does not need the share goes on.
	g.ask(t, "ping")
}
