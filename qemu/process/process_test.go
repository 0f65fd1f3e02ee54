package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/process/thread"
)

// parentEnv makes the test binary a parent that starts a process and waits to be
// killed.
const parentEnv = "HYPER_TEST_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parentEnv) != "" {
		beParent()
		return
	}
	goleak.VerifyTestMain(m)
}

func beParent() {
	p, err := Start(Spec{Path: "/bin/sleep", Args: []string{"1000"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.PID())
	<-p.Done()
}

func shell(t *testing.T, script string, change func(*Spec)) *Process {
	t.Helper()
	spec := Spec{Path: "/bin/sh", Args: []string{"-c", script}}
	if change != nil {
		change(&spec)
	}
	p, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill(t.Context()) })
	return p
}

func waitDone(t *testing.T, p *Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the process did not end")
	}
}

func TestEndIsReported(t *testing.T) {
	for _, tc := range []struct {
		name, script, how, log string
		clean                  bool
	}{
		{"clean", "exit 0", "exit status 0", "", true},
		{"status", "echo out; echo err >&2; exit 3", "exit status 3", "out\nerr", false},
		{"signal", "kill -SEGV $$", "signal: segmentation fault", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := shell(t, tc.script, nil)
			waitDone(t, p)
			var exit *ExitError
			if !errors.As(p.Err(), &exit) {
				t.Fatalf("Err() = %v, want an ExitError", p.Err())
			}
			if !strings.HasPrefix(exit.How, tc.how) || exit.Log != tc.log || exit.Clean != tc.clean {
				t.Errorf("got %+v", *exit)
			}
		})
	}
}

func TestKill(t *testing.T) {
	p := shell(t, "exec sleep 1000", nil)
	if p.Err() != nil {
		t.Errorf("Err() of a running process = %v", p.Err())
	}
	for range 3 {
		if err := p.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if p.Err() != nil {
		t.Errorf("Err() after Kill = %v", p.Err())
	}
	if err := syscall.Kill(p.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the process is still there: %v", err)
	}
}

func TestKillGivesUpWithItsContext(t *testing.T) {
	p := shell(t, "exec sleep 1000", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// The process may be gone in time, which is no error either.
	if err := p.Kill(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Kill() = %v", err)
	}
	waitDone(t, p)
}

func TestDoneDespiteAHeldPipe(t *testing.T) {
	// The grandchild leaves the session and keeps the pipe for a while.
	p := shell(t, "setsid sleep 3 & exit 1", nil)
	begin := time.Now()
	waitDone(t, p)
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("Done after %v", took)
	}
}

func TestFilesAndEnvironment(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := shell(t, "env; ls /proc/self/fd; echo hello >&3", func(s *Spec) {
		s.Env = []string{"A=b"}
		s.Files = []*os.File{w}
	})
	w.Close()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil || line != "hello\n" {
		t.Errorf("read %q, %v", line, err)
	}
	waitDone(t, p)
	// 4 is the directory that ls reads.
	if got := strings.Fields(p.Log()); !strings.HasSuffix(strings.Join(got, " "), "0 1 2 3 4") ||
		!strings.Contains(p.Log(), "A=b") || strings.Contains(p.Log(), "HOME=") {
		t.Errorf("the process saw %q", got)
	}
}

func TestSmallPages(t *testing.T) {
	p := shell(t, "cat /proc/self/status", func(s *Spec) { s.SmallPages = true })
	waitDone(t, p)
	if got := procStatus(t, p.Log())["THP_enabled"]; got != "0" {
		t.Errorf("THP_enabled = %q, want that it gets no huge pages", got)
	}
}

// TestSlice has a process compute for long at a time, and then as usual.
func TestSlice(t *testing.T) {
	const long = 77 * time.Millisecond
	slice := func(pid int) time.Duration {
		attr, err := unix.SchedGetAttr(pid, 0)
		if err != nil {
			t.Error(err)
			return 0
		}
		return time.Duration(attr.Runtime)
	}
	usual := slice(0)
	if usual == 0 {
		t.Skip("this kernel has no slices (Linux before 6.12)")
	}
	p := shell(t, "exec sleep 100", func(s *Spec) { s.Slice = long })
	if got := slice(p.PID()); got != long {
		t.Errorf("the process may compute for %v at a time, want %v", got, long)
	}
	if got := slice(0); got != usual {
		t.Errorf("who started it may compute for %v at a time, want %v as before", got, usual)
	}
	// One that is nice stays as it is.
	err := thread.Do(func() error {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 5); err != nil {
			return err
		}
		if err := setSlice(0, long); err != nil {
			return err
		}
		if got := slice(0); got != usual {
			return fmt.Errorf("one that is nice may compute for %v at a time, want %v", got, usual)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := p.UsualSlice(); err != nil {
		t.Fatal(err)
	}
	if got := slice(p.PID()); got != usual {
		t.Errorf("afterwards the process may compute for %v at a time, want %v", got, usual)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.UsualSlice(); err != nil {
		t.Errorf("of a process that has ended: %v", err)
	}
}

func TestUserHasNoPrivileges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can change to another user")
	}
	p := shell(t, "cat /proc/self/status; cat /proc/1/environ; id -G", func(s *Spec) {
		s.User = &User{UID: 123456, GID: 123457, Groups: []uint32{77}}
		s.Namespaces = unix.CLONE_NEWNET | unix.CLONE_NEWIPC
		s.Env = []string{"PATH=/bin:/usr/bin"}
	})
	waitDone(t, p)
	status := procStatus(t, p.Log())
	for key, want := range map[string]string{
		"Uid": "123456 123456 123456 123456", "Gid": "123457 123457 123457 123457", "Groups": "77",
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1",
	} {
		if status[key] != want {
			t.Errorf("%s = %q, want %q", key, status[key], want)
		}
	}
	if !strings.Contains(p.Log(), "/proc/1/environ: Permission denied") {
		t.Errorf("it can read what belongs to root: %s", p.Log())
	}
}

// TestNetNS runs processes in a namespace that another holds, with and without
// confinement, and sees that no thread of this process stays there.
func TestNetNS(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make a network namespace")
	}
	holder := shell(t, "exec sleep 1000", func(s *Spec) { s.Namespaces = unix.CLONE_NEWNET })
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", holder.PID()))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	theirs, err := os.Readlink(ns.Name())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		p := shell(t, "readlink /proc/self/ns/net; grep CapBnd /proc/self/status", func(s *Spec) {
			s.NetNS = ns
			if i%2 == 0 {
				s.User = &User{UID: 123456, GID: 123456}
			}
		})
		free := shell(t, "readlink /proc/self/ns/net", nil)
		waitDone(t, p)
		waitDone(t, free)
		if !strings.HasPrefix(p.Log(), theirs) {
			t.Errorf("it ran in %s, want %s", p.Log(), theirs)
		}
		if i%2 == 0 && !strings.HasSuffix(p.Log(), "0000000000000000") {
			t.Errorf("it kept capabilities: %s", p.Log())
		}
		if strings.HasPrefix(free.Log(), theirs) {
			t.Fatalf("round %d: a process landed on a thread that was moved", i)
		}
	}
	uts, err := os.Open("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	defer uts.Close()
	_, err = Start(Spec{Path: "/bin/true", NetNS: uts})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), uts.Name()) {
		t.Errorf("Start() = %v", err)
	}
}

// TestConfinedThreadIsNotReused runs processes with and without confinement by
// turns: none of the latter may land on a confined thread.
func TestConfinedThreadIsNotReused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can change to another user")
	}
	for i := range 20 {
		confined := shell(t, "exit 0", func(s *Spec) { s.User = &User{UID: 123456, GID: 123456} })
		free := shell(t, "grep NoNewPrivs /proc/self/status", nil)
		waitDone(t, confined)
		waitDone(t, free)
		if got := procStatus(t, free.Log())["NoNewPrivs"]; got != "0" {
			t.Fatalf("round %d: NoNewPrivs = %q", i, got)
		}
	}
}

// procStatus parses the text of /proc/<pid>/status.
func procStatus(t *testing.T, text string) map[string]string {
	t.Helper()
	status := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			status[key] = strings.Join(strings.Fields(value), " ")
		}
	}
	return status
}

func TestStartErrors(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("not a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]error{
		filepath.Join(dir, "missing"): errdefs.ErrNotFound,
		plain:                         errdefs.ErrPermissionDenied,
		text:                          errdefs.ErrFailedPrecondition,
	} {
		p, err := Start(Spec{Path: path})
		if !errors.Is(err, kind) || !strings.Contains(fmt.Sprint(err), path) {
			t.Errorf("Start(%s) = %v, %v", path, p, err)
		}
	}
}

// TestDiesWithItsParent kills a parent with SIGKILL and sees its child gone.
func TestDiesWithItsParent(t *testing.T) {
	parent := exec.Command("/proc/self/exe")
	parent.Env = append(os.Environ(), parentEnv+"=1")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("the parent said %q", line)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 5000)
	if err != nil || n != 1 {
		t.Errorf("the child lives on: %d, %v", n, err)
	}
}
