package virtiofsd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const (
	// privateEnv says that the tests run in a mount namespace of their own, so that
	// no mount of theirs can be left behind.
	privateEnv = "HYPER_TEST_PRIVATE"
	// parentEnv makes the test binary a parent that starts a daemon for a directory
	// and waits to be killed.
	parentEnv = "HYPER_TEST_PARENT"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(parentEnv) != "":
		beParent(os.Getenv(parentEnv))
	case os.Geteuid() == 0 && os.Getenv(privateEnv) == "":
		os.Exit(runPrivately())
	default:
		goleak.VerifyTestMain(m)
	}
}

func runPrivately() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(cmd.ProcessState.ExitCode(), 1)
	}
	return 0
}

func beParent(dir string) {
	d, err := Start(context.Background(), Config{Dir: dir, SocketDir: dir})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(d.PID())
	<-d.Done()
}

// needDaemon skips where there is no daemon to run.
func needDaemon(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can run virtiofsd with a sandbox")
	}
	if _, err := Find(t.Context(), ""); errdefs.IsNotFound(err) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, cfg Config) *Daemon {
	t.Helper()
	needDaemon(t)
	if cfg.SocketDir == "" {
		cfg.SocketDir = t.TempDir()
	}
	d, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Socket.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := d.Kill(ctx); err != nil {
			t.Error(err)
		}
	})
	return d
}

// Messages of the vhost-user protocol: what is asked, flags (version 1), no payload.
const getFeatures = 1

// ready exchanges a first message with the daemon.
func ready(t *testing.T, d *Daemon) {
	t.Helper()
	request := []byte{getFeatures, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}
	if _, err := d.Socket.Write(request); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 12+8)
	n, err := io.ReadFull(d.Socket, reply)
	if err != nil || reply[0] != getFeatures {
		t.Fatalf("the daemon answered %x, %v: %s", reply[:n], err, d.Log())
	}
}

func await(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: not in time", what)
	}
}

// family returns a process and its descendants.
func family(t *testing.T, pid int) []int {
	t.Helper()
	pids := []int{pid}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		t.Skipf("this kernel does not list children: %v", err)
	}
	for child := range strings.FieldsSeq(string(b)) {
		n, err := strconv.Atoi(child)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, family(t, n)...)
	}
	return pids
}

// checkGone waits for the end of processes by descriptors that were opened while
// they lived.
func checkGone(t *testing.T, pidfds []int) {
	t.Helper()
	for _, fd := range pidfds {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
		if err != nil || n != 1 {
			t.Errorf("a process lives on: %d, %v", n, err)
		}
		unix.Close(fd)
	}
}

func openAll(t *testing.T, pids []int) (fds []int) {
	t.Helper()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	return fds
}

func TestStart(t *testing.T) {
	// Longer than the name of a socket can be.
	socketDir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.Mkdir(socketDir, 0o700); err != nil {
		t.Fatal(err)
	}
	d := start(t, Config{Dir: t.TempDir(), SocketDir: socketDir})
	ready(t, d)
	left, err := os.ReadDir(socketDir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := d.Err(); err != nil {
		t.Errorf("Err() of a running daemon = %v", err)
	}
	fds := openAll(t, family(t, d.PID()))
	if len(fds) < 2 {
		t.Errorf("the daemon has no helper in its sandbox")
	}
	for range 2 {
		if err := d.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	checkGone(t, fds)
	if err := d.Err(); err != nil {
		t.Errorf("Err() after Kill = %v", err)
	}
}

func TestEndsWithItsConnection(t *testing.T) {
	d := start(t, Config{Dir: t.TempDir()})
	ready(t, d)
	d.Socket.Close()
	await(t, d.Done(), "the daemon's end")
}

func TestHelperKilled(t *testing.T) {
	d := start(t, Config{Dir: t.TempDir()})
	ready(t, d)
	pids := family(t, d.PID())
	fds := openAll(t, pids)
	killed := time.Now()
	if err := syscall.Kill(pids[len(pids)-1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, d.Done(), "the daemon's end")
	t.Logf("Done after %v", time.Since(killed))
	checkGone(t, fds)
	if d.Err() == nil {
		t.Error("Err() = nil")
	}
}

func TestDaemonKilled(t *testing.T) {
	d := start(t, Config{Dir: t.TempDir()})
	ready(t, d)
	fds := openAll(t, family(t, d.PID()))
	if err := syscall.Kill(d.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, d.Done(), "the daemon's end")
	checkGone(t, fds)
	if err := fmt.Sprint(d.Err()); !strings.Contains(err, "signal: killed") {
		t.Errorf("Err() = %v", err)
	}
}

func TestDiesWithItsParent(t *testing.T) {
	needDaemon(t)
	parent := exec.Command("/proc/self/exe")
	parent.Env = append(os.Environ(), parentEnv+"="+t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		_ = parent.Process.Kill()
		t.Fatalf("the parent said %q", line)
	}
	fds := openAll(t, family(t, pid))
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	checkGone(t, fds)
}

// TestLaterMounts mounts below a shared directory that is already shared.
func TestLaterMounts(t *testing.T) {
	needDaemon(t)
	if os.Getenv(privateEnv) == "" {
		t.Skip("no mount namespace of our own")
	}
	dir, source := t.TempDir(), t.TempDir()
	mount := func(source, target string, flags uintptr) {
		t.Helper()
		if err := unix.Mount(source, target, "", flags, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
	mount(dir, dir, unix.MS_BIND)
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	d := start(t, Config{Dir: dir})
	ready(t, d)

	if err := os.WriteFile(filepath.Join(source, "file"), []byte("later"), 0o644); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, "target")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	mount(source, target, unix.MS_BIND)

	pids := family(t, d.PID())
	inside := fmt.Sprintf("/proc/%d/root/target/file", pids[len(pids)-1])
	if b, err := os.ReadFile(inside); err != nil || string(b) != "later" {
		t.Errorf("the daemon sees %q, %v", b, err)
	}
	if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(inside); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the daemon still sees it: %v", err)
	}
}

func TestStartErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("#!/bin/sh\necho something else\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	for _, tc := range []struct {
		name string
		cfg  Config
		kind error
		want string
	}{
		{"no binary", Config{Path: missing, Dir: dir}, errdefs.ErrNotFound, missing},
		{"not executable", Config{Path: plain, Dir: dir}, errdefs.ErrFailedPrecondition, plain},
		{"other program", Config{Path: file, Dir: dir}, errdefs.ErrFailedPrecondition, "something else"},
		{"no directory", Config{Dir: missing}, errdefs.ErrNotFound, missing},
		{"a file", Config{Dir: file}, errdefs.ErrInvalidArgument, file},
		{"relative", Config{Dir: "x"}, errdefs.ErrInvalidArgument, "absolute"},
		{"comma", Config{Dir: "/a,b"}, errdefs.ErrInvalidArgument, "comma"},
		{"cache", Config{Dir: dir, Cache: "x"}, errdefs.ErrInvalidArgument, `"auto"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.cfg.SocketDir == "" {
				tc.cfg.SocketDir = t.TempDir()
			}
			_, err := Start(t.Context(), tc.cfg)
			if !errors.Is(err, tc.kind) || !strings.Contains(fmt.Sprint(err), tc.want) {
				t.Errorf("Start() = %v, want %v about %s", err, tc.kind, tc.want)
			}
		})
	}
	needDaemon(t)
	if _, err := Start(t.Context(), Config{Dir: dir, SocketDir: missing}); err == nil {
		t.Error("Start() without a directory for its socket succeeded")
	}
}

// TestFindGivesUp asks a program that does not answer.
func TestFindGivesUp(t *testing.T) {
	silent := filepath.Join(t.TempDir(), "silent")
	if err := os.WriteFile(silent, []byte("#!/bin/sh\nexec sleep 100\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Find(ctx, silent); !errdefs.IsDeadlineExceeded(err) || !strings.Contains(fmt.Sprint(err), silent) {
		t.Errorf("Find() = %v, want one about %s that the time is over", err, silent)
	}
}

func TestFlavour(t *testing.T) {
	for version, want := range map[string]Flavour{
		"virtiofsd version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright (c) 2003-2022 Fabrice Bellard and the QEMU Project developers\nusing FUSE kernel interface version 7.36\n": FlavourC,
		"virtiofsd 1.13.2\n":        FlavourRust,
		"virtiofsd backend 1.4.0\n": FlavourRust,
		"busybox v1.35\x1b[31m\n":   0,
		"":                          0,
	} {
		got, err := flavourOf(version)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("flavourOf(%q) = %v, %v", version, got, err)
		}
	}
}

func TestArguments(t *testing.T) {
	cfg := Config{Dir: "/shared dir", Cache: CacheNever}
	c := arguments(Binary{Flavour: FlavourC}, cfg, 3, 1000)
	want := []string{"--fd=3", "--thread-pool-size=0", "--rlimit-nofile=1000", "-f", "-o",
		"source=/shared dir,sandbox=namespace,cache=none,xattr,announce_submounts,no_posix_lock,no_flock,log_level=warn"}
	if !slices.Equal(c, want) {
		t.Errorf("C: %q", c)
	}
	rust := arguments(Binary{Flavour: FlavourRust}, cfg, 3, 1000)
	want = []string{"--fd=3", "--shared-dir=/shared dir", "--sandbox=namespace", "--seccomp=kill", "--cache=never", "--xattr",
		"--announce-submounts", "--thread-pool-size=0", "--rlimit-nofile=1000", "--log-level=warn"}
	if !slices.Equal(rust, want) {
		t.Errorf("Rust: %q", rust)
	}
}
