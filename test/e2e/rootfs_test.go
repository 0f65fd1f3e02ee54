package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
)

// hostDir is a directory for the test's mounts and files.
func hostDir(t *testing.T, c *harness.Cell, files map[string]string) string {
	t.Helper()
	return c.HostDir(t, files)
}

// makeFile makes an empty file.
func makeFile(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// checkScripts runs scripts one after the other in a task and compares what each
// prints on standard output. They go in one exec, each in a shell of its own: an
// emulated guest takes long to start a process from outside.
func checkScripts(t *testing.T, task *harness.Task, tests []struct{ what, script, want string }) {
	t.Helper()
	const mark = "\x01"
	var all strings.Builder
	for _, test := range tests {
		fmt.Fprintf(&all, "echo '# %s' >&2\n(\n%s\n)\nprintf '%s'\n", strings.ReplaceAll(test.what, "'", ""), test.script, mark)
	}
	r := task.Shell(t, all.String())
	printed := strings.Split(r.Stdout, mark)
	if len(printed) != len(tests)+1 {
		t.Fatalf("%d scripts of %d ended: %+v", len(printed)-1, len(tests), r)
	}
	for i, test := range tests {
		if printed[i] != test.want {
			t.Errorf("%s: %q printed %q, want %q; on standard error all wrote %q", test.what, test.script, printed[i], test.want, r.Stderr)
		}
	}
}

// testRootfs does to the root filesystem what programs do to one.
func testRootfs(t *testing.T, c *harness.Cell) { checkRootfs(t, running(t, c)) }

func checkRootfs(t *testing.T, task *harness.Task) {
	t.Helper()
	checkScripts(t, task, []struct{ what, script, want string }{
		{"write and read", "echo x > /root/f && cat /root/f", "x\n"},
		{"append", "echo y >> /root/f && wc -l < /root/f", "2\n"},
		{"rename over", "echo z > /root/g && mv /root/g /root/f && cat /root/f", "z\n"},
		{"hard link", "ln /root/f /root/h && stat -c %h /root/f", "2\n"},
		{"symbolic link", "ln -s f /root/s && cat /root/s", "z\n"},
		{"owner and mode", "chown 1000:29 /root/f && chmod 4751 /root/f && stat -c '%u %g %a' /root/f", "1000 29 4751\n"},
		{"another user", "su user -s /bin/sh -c 'echo mine > /home/user/f; stat -c %u /home/user/f; cat /etc/secret 2>/dev/null || echo no'", "1000\nno\n"},
		{"sticky directory", "su user -s /bin/sh -c 'touch /tmp/f'; stat -c '%u' /tmp/f", "1000\n"},
		{"deleted and open", "exec 3<>/root/d; rm /root/d; echo still >&3; cat /proc/self/fd/3 | wc -c", "6\n"},
		{"fifo", "mkfifo /root/p && (echo through > /root/p & cat /root/p)", "through\n"},
		{"directories", "mkdir -p /root/a/b/c && rmdir /root/a/b/c && ls /root/a", "b\n"},
		{"truncate", "truncate -s 100 /root/t && truncate -s 10 /root/t && wc -c < /root/t", "10\n"},
		{"many files", "mkdir /root/m && for i in $(seq 300); do : > /root/m/$i; done; ls /root/m | wc -l", "300\n"},
		{"a larger file", "probe write 8000001 0 > /root/l; sha256sum < /root/l | cut -c-64 > /root/sum; probe pattern 8000001 | cmp - /root/sum && echo same", "same\n"},
		{"modification time", "touch -d '2001-02-03 04:05:06' /root/f && stat -c %Y /root/f", "981173106\n"},
	})
}

// testRootfsPersists runs two tasks of one container after each other.
func testRootfsPersists(t *testing.T, c *harness.Cell) {
	container := c.Container(t, harness.Sh("cat /root/kept 2>/dev/null; echo again >> /root/kept"))
	if r := container.Run(t, harness.IO{}); r.Status != 0 || r.Stdout != "" {
		t.Fatalf("the first run: %+v", r)
	}
	if r := container.Run(t, harness.IO{}); r.Status != 0 || r.Stdout != "again\n" {
		t.Errorf("the second run: %+v", r)
	}
}

func testReadonlyRootfs(t *testing.T, c *harness.Cell) {
	task := running(t, c, harness.Mount("tmpfs", "tmpfs", "/tmp", "nosuid", "size=1m"), func(s *specs.Spec) { s.Root.Readonly = true })
	checkScripts(t, task, []struct{ what, script, want string }{
		{"write", "touch /root/x 2>&1; touch /x 2>&1 || true", "touch: /root/x: Read-only file system\ntouch: /x: Read-only file system\n"},
		{"read", "cat /etc/secret", "only root\n"},
		{"a mount in it", "echo x > /tmp/x && cat /tmp/x", "x\n"},
		{"shared memory", "echo x > /dev/shm/x && cat /dev/shm/x", "x\n"},
	})
}

func testTmpfs(t *testing.T, c *harness.Cell) {
	task := running(t, c, harness.Mount("tmpfs", "tmpfs", "/new/deep", "nosuid", "noexec", "nodev", "size=2m", "mode=1750"))
	checkScripts(t, task, []struct{ what, script, want string }{
		{"its options", "grep ' /new/deep ' /proc/mounts | tr ' ,' '\\n\\n' | grep -E '^(tmpfs|noexec|nosuid|nodev|size=2048k|mode=1750)$' | sort -u", "mode=1750\nnodev\nnoexec\nnosuid\nsize=2048k\ntmpfs\n"},
		{"its mode", "stat -c %a /new/deep", "1750\n"},
		{"its size", "head -c 3000000 /dev/zero > /new/deep/f 2>/dev/null; wc -c < /new/deep/f", "2097152\n"},
		{"noexec", "cp /bin/busybox /tmp && /tmp/busybox echo yes; rm /new/deep/f; cp /bin/busybox /new/deep; /new/deep/busybox echo yes 2>/dev/null || echo no", "yes\nno\n"},
		{"shared memory", "stat -f -c %T /dev/shm && stat -c %a /dev/shm", "tmpfs\n1777\n"},
	})
}

// testBindDirectories binds directories of the host, writable and read-only.
func testBindDirectories(t *testing.T, c *harness.Cell) {
	host := hostDir(t, c, map[string]string{"rw/old": "from the host\n", "ro/old": "only to read\n", "ro/deep/file": "deep\n"})
	task := running(t, c,
		harness.Mount("bind", filepath.Join(host, "rw"), "/rw", "rbind", "rw"),
		harness.Mount("bind", filepath.Join(host, "ro"), "/data/ro", "rbind", "ro"),
	)
	checkScripts(t, task, []struct{ what, script, want string }{
		{"read", "cat /rw/old /data/ro/old /data/ro/deep/file", "from the host\nonly to read\ndeep\n"},
		{"write", "echo from the container > /rw/new && echo yes", "yes\n"},
		{"read-only", "touch /data/ro/x 2>&1; echo x 2>/dev/null > /data/ro/old || echo no", "touch: /data/ro/x: Read-only file system\nno\n"},
		{"delete read-only", "rm -f /data/ro/old 2>/dev/null || echo no", "no\n"},
	})
	if got, err := os.ReadFile(filepath.Join(host, "rw", "new")); err != nil || string(got) != "from the container\n" {
		t.Errorf("the host reads %q, %v", got, err)
	}
	// What the host changes later arrives, a replaced file too (as a ConfigMap is).
	if err := os.WriteFile(filepath.Join(host, "ro", "next"), []byte("changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(host, "ro", "next"), filepath.Join(host, "ro", "old")); err != nil {
		t.Fatal(err)
	}
	r := task.Shell(t, "for i in $(seq 100); do grep -q changed /data/ro/old && break; sleep 0.1; done; cat /data/ro/old")
	if r.Stdout != "changed\n" {
		t.Errorf("after the host replaced a file the container reads %+v", r)
	}
}

// testBindFile binds single files, as resolv.conf is, and looks for their
// neighbours wherever the guest could look.
func testBindFile(t *testing.T, c *harness.Cell) {
	host := hostDir(t, c, map[string]string{
		"resolv.conf": "nameserver 192.0.2.1\n", "hosts": "192.0.2.2 there\n", "one": "one\n", "sibling-that-nobody-shared": "secret\n",
	})
	task := running(t, c,
		harness.Mount("bind", filepath.Join(host, "resolv.conf"), "/etc/resolv.conf", "rbind", "ro"),
		harness.Mount("bind", filepath.Join(host, "hosts"), "/etc/hosts", "bind", "ro"),
		harness.Mount("bind", filepath.Join(host, "one"), "/new/dir/file", "rbind", "rw"),
	)
	checkScripts(t, task, []struct{ what, script, want string }{
		{"resolv.conf", "cat /etc/resolv.conf", "nameserver 192.0.2.1\n"},
		{"hosts", "cat /etc/hosts", "192.0.2.2 there\n"},
		{"read-only", "echo x 2>/dev/null > /etc/hosts || echo no", "no\n"},
		{"write", "echo two >> /new/dir/file && cat /new/dir/file", "one\ntwo\n"},
		{"only this file", "ls /new/dir", "file\n"},
	})
	if got, err := os.ReadFile(filepath.Join(host, "one")); err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("the host reads %q, %v", got, err)
	}
	looked := false
	for _, p := range c.Program("virtiofsd") {
		if found := findBelow(filepath.Join("/proc", itoa(p.PID), "root"), "sibling-that-nobody-shared"); found != "" {
			t.Errorf("virtiofsd (%d), and so the guest, can reach %s", p.PID, found)
		}
		if dir := filepath.Join("/proc", itoa(p.PID), "root"); checkMountPoints(t, dir, task.Container.ID) {
			looked = true
		}
	}
	if c.Runtime == harness.RuntimeHyper && !looked {
		t.Error("there is no virtiofsd to look into")
	}
}

// checkMountPoints checks that a daemon, and so the guest, can make nothing where the host
// mounts: at the root of what it sees, and in a container's directories. It is false for
// the half of the daemon that is not in the sandbox.
func checkMountPoints(t *testing.T, root, container string) bool {
	t.Helper()
	mounts, err := filepath.Glob(filepath.Join(root, container+".*", "mounts"))
	if err != nil || len(mounts) != 1 {
		return false
	}
	for _, dir := range []string{mounts[0], filepath.Dir(mounts[0]), root} {
		if err := os.Mkdir(filepath.Join(dir, "made-by-the-guest"), 0o755); !errors.Is(err, unix.EROFS) {
			t.Errorf("making a directory in %s: %v", dir, err)
		}
	}
	return true
}

// findBelow finds a name below a directory, staying out of /proc.
func findBelow(root, name string) string {
	found := ""
	filepath.WalkDir(root+"/", func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if entry.Name() == name {
			found = path
			return filepath.SkipAll
		}
		if entry.IsDir() && strings.HasPrefix(strings.TrimPrefix(path, root), "/proc/") {
			return filepath.SkipDir
		}
		return nil
	})
	return found
}

// testPropagation has the host mount something below a directory that containers
// already have: it arrives where the mount is a slave, and only there. The machine begins
// after the directory was made shared, which others would not see on a host whose root is
// not shared itself.
func testPropagation(t *testing.T, c *harness.Cell) {
	host := hostDir(t, c, map[string]string{"shared/file": "x\n", "shared/later/old": "covered\n"})
	shared := filepath.Join(host, "shared")
	bindTo(t, shared, unix.MS_SHARED)
	task := running(t, c,
		harness.Mount("bind", shared, "/slave", "rbind", "rslave"),
		harness.Mount("bind", shared, "/private", "rbind", "rprivate"),
	)
	later := filepath.Join(shared, "later")
	if err := unix.Mount("tmpfs", later, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(later, unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(later, "new"), []byte("mounted later\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	checkScripts(t, task, []struct{ what, script, want string }{
		{"content", "cat /slave/file /private/file", "x\nx\n"},
		{"slave", "for i in $(seq 100); do [ -e /slave/later/new ] && break; sleep 0.1; done; cat /slave/later/new", "mounted later\n"},
		{"private", "ls /private/later", "old\n"},
	})
}

// bindTo binds a directory to itself, with a propagation.
func bindTo(t *testing.T, dir string, propagation uintptr) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", propagation, ""); err != nil {
		t.Fatal(err)
	}
}

// testMissingSource binds what is not there.
func testMissingSource(t *testing.T, c *harness.Cell) {
	missing := filepath.Join(c.Dir, "is-not-there")
	container := c.Container(t, harness.Args("true"), harness.Mount("bind", missing, "/data", "rbind", "ro"))
	if _, err := container.TryCreate(t, harness.IO{}); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("got %v, want an error that names %s", err, missing)
	}
}

// testExecutables executes programs whose pages come and go. What the share's
// daemon writes into the guest's memory an emulator does not see, and it could
// execute what it has translated from the same pages before.
func testExecutables(t *testing.T, c *harness.Cell) {
	rootfsBy(t, c, "share")
	withoutTemplates(t, c)
	task := running(t, c, harness.Annotation(hyperAnnotation+"memory_mib", "96"))
	const rounds = 12
	p := task.Exec(t, harness.Command{Args: []string{"sh", "-c", fmt.Sprintf(`cp /bin/probe /root/p && cp /bin/busybox /root/busybox || exit 1
		i=0
		while [ $i -lt %d ]; do
			i=$((i+1))
			/root/p pattern 1000 || exit 2
			/root/busybox cat /root/p > /dev/null || exit 3
			/bin/probe pattern 1000 > /root/sum || exit 4
			/bin/busybox sha256sum /root/busybox > /root/sum || exit 5
		done`, rounds)}}, harness.IO{})
	p.Start(t)
	want := patternSum(1000) + "\n"
	t.Cleanup(func() { t.Logf("%d of %d rounds", strings.Count(p.Output(), want), rounds) })
	exit := p.Wait(t, 2*harness.Patience)
	p.Delete(t)
	stdout, stderr := p.Collect(t)
	if exit.Status != 0 || stdout != strings.Repeat(want, rounds) {
		t.Errorf("status %d: %s", exit.Status, stderr)
	}
}
