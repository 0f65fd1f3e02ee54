package e2e

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
)

// unixServer serves a unix socket of the host until the test ends: each
// connection gets back what it sent, once it has sent all.
func unixServer(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if data, err := io.ReadAll(conn); err == nil {
					conn.Write(data)
				}
			}()
		}
	}()
	return l
}

// shortDir is a directory whose name leaves room for that of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// testSocket binds a socket of the host: its attributes are the host's, and what
// is sent through it comes back, once all of it was sent.
func testSocket(t *testing.T, c *harness.Cell) {
	path := filepath.Join(shortDir(t), "s")
	unixServer(t, path)
	if err := errors.Join(os.Chown(path, 1000, 2000), os.Chmod(path, 0o660)); err != nil {
		t.Fatal(err)
	}
	task := running(t, c, harness.Mount("bind", path, "/run/api.sock", "rbind", "rw"), harness.Mount("bind", path, "/run/same.sock", "bind", "ro"))
	checkScripts(t, task, []struct{ what, script, want string }{
		{"attributes", "stat -c '%F %a %u:%g' /run/api.sock", "socket 660 1000:2000\n"},
		{"a word", "echo hello | probe dial /run/api.sock", "hello\n"},
		{"nothing", "probe dial /run/api.sock </dev/null; echo $?", "0\n"},
		{"read-only", "echo hello | probe dial /run/same.sock", "hello\n"},
		{"5 MB", "probe write 5000000 0 >/tmp/d; probe dial /run/api.sock </tmp/d | cmp - /tmp/d && echo same", "same\n"},
		{"at once", "for i in $(seq 20); do (echo $i | probe dial /run/api.sock) & done | sort -n | tail -n 1; wait", "20\n"},
	})
	// A program that holds a connection while its container goes.
	held := task.Exec(t, harness.Command{Args: []string{"sh", "-c", "sleep 100000 | probe dial /run/api.sock"}}, harness.IO{})
	held.Start(t)
}

// testSocketWithoutServer has the server end, and then the socket: connections
// end, and nothing hangs. Another that takes its name is not the one that was
// bound.
func testSocketWithoutServer(t *testing.T, c *harness.Cell) {
	path := filepath.Join(shortDir(t), "s")
	l := unixServer(t, path)
	l.SetUnlinkOnClose(false)
	task := running(t, c, harness.Mount("bind", path, "/run/api.sock", "rbind"))
	// How the connection ends depends on when the client looks.
	const refused = "echo hello | timeout 20 probe dial /run/api.sock 2>/dev/null; [ $? != 143 ] && echo ended"
	if r := task.Shell(t, "echo hello | probe dial /run/api.sock"); r.Stdout != "hello\n" {
		t.Errorf("with a server: %+v", r)
	}
	l.Close()
	if r := task.Shell(t, refused); r.Stdout != "ended\n" {
		t.Errorf("without a server: %+v", r)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	unixServer(t, path)
	if r := task.Shell(t, refused); r.Stdout != "ended\n" {
		t.Errorf("with another socket of that name: %+v", r)
	}
	if r := task.Shell(t, "echo alive"); r.Stdout != "alive\n" {
		t.Errorf("after: %+v", r)
	}
}

// testManyConnections makes one connection after the other: places are free again.
func testManyConnections(t *testing.T, c *harness.Cell) {
	path := filepath.Join(shortDir(t), "s")
	unixServer(t, path)
	task := running(t, c, harness.Mount("bind", path, "/run/api.sock", "rbind"))
	if r := task.Shell(t, "probe dials /run/api.sock 300"); r.Stdout != "300 echoes\n" {
		t.Errorf("%+v", r)
	}
}

// testGoneVolume takes away what volumes name: there are errors, and no hang.
func testGoneVolume(t *testing.T, c *harness.Cell) {
	host := hostDir(t, c, map[string]string{"removed/file": "x\n"})
	mounted := filepath.Join(host, "mounted")
	if err := os.Mkdir(mounted, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(mounted, unix.MNT_DETACH) })
	makeFile(t, mounted, "file")
	task := running(t, c,
		harness.Mount("bind", filepath.Join(host, "removed"), "/removed", "rbind"),
		harness.Mount("bind", mounted, "/mounted", "rbind"),
	)
	if err := errors.Join(os.RemoveAll(filepath.Join(host, "removed")), unix.Unmount(mounted, unix.MNT_DETACH)); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	r := task.Shell(t, `
		{ echo x > /removed/new; } 2>/dev/null && echo written
		mkdir /removed/dir 2>/dev/null && echo made
		timeout 20 ls /mounted >/dev/null 2>&1; [ $? = 143 ] && echo hangs
		echo x > /root/f && cat /root/f`)
	if r.Stdout != "x\n" || time.Since(begun) > harness.Patience {
		t.Errorf("after %v: %+v", time.Since(begun), r)
	}
}
