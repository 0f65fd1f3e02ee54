package agent

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// whatAmI prints what a process has been made: ids, capabilities, signals, limits,
// namespaces, files. What differs from one execution to the next is left out.
const whatAmI = `id -u; id -G; pwd; umask; tr '\0' '\n' </proc/self/environ; cat /proc/self/cgroup /proc/self/oom_score_adj; echo slack $(cat /proc/self/timerslack_ns)
	grep -E '^(Uid|Gid|Groups|NSsid|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp|Umask|Sig|Shd|Cpus_allowed_list|Threads|TracerPid)' /proc/self/status | grep -v NSsid
	cat /proc/self/limits; cat /proc/self/mountinfo | wc -l
	for ns in mnt pid net ipc uts cgroup user time; do readlink /proc/self/ns/$ns; done
	ls /proc/self/fd | wc -l; for fd in 0 1 2; do stat -L -c '%F %u %g %a' /proc/self/fd/$fd; done
	awk '{print ($6 == $1) ? "other session" : "", $7, $18, $19}' /proc/$$/stat; cat /proc/keys | grep -c _ses`

// byLibcontainer has an exec go libcontainer's way: it has CPUs of its own, which here
// are all that there are.
func byLibcontainer(p specs.Process) *specs.Process {
	p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "0"}
	return &p
}

// testExecAlike: what the usher lets in is what libcontainer would have made of it.
func testExecAlike(t *testing.T, g *testGuest) {
	umask, score := uint32(0o27), 77
	g.sleeper(t, "alike", func(s *specs.Spec) {
		s.Process.User.Umask = &umask
		s.Process.OOMScoreAdj = &score
		s.Process.Env = append(s.Process.Env, "SECRET=of the init")
	})
	defer g.delete(t, "alike")
	caps := func(names ...string) *specs.LinuxCapabilities {
		return &specs.LinuxCapabilities{Bounding: names, Permitted: names, Effective: names, Inheritable: names, Ambient: names}
	}
	script := []string{"sh", "-c", whatAmI}
	for _, c := range []struct {
		name string
		p    specs.Process
	}{
		{"plain", specs.Process{Cwd: "/", Env: []string{"PATH=/bin"}}},
		{"no new privileges", specs.Process{Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true}},
		{"variables", specs.Process{Cwd: "/tmp", Env: []string{"A=1", "PATH=/nowhere:/bin", "HOME=", "A=2", "B=", "HOME="}}},
		{"a home", specs.Process{Cwd: "/", Env: []string{"HOME=/vol", "PATH=/bin"}}},
		{"a user", specs.Process{Cwd: "/vol", Env: []string{"PATH=/bin"}, User: specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5, 1234, 1235}}}},
		{"a user without a name", specs.Process{Cwd: "/vol", Env: []string{"PATH=/bin"}, User: specs.User{UID: 4321, GID: 7}}},
		{"a user's capabilities", specs.Process{
			Cwd: "/", Env: []string{"PATH=/bin"}, User: specs.User{UID: 1000, GID: 1000}, Capabilities: caps("CAP_NET_RAW", "CAP_CHOWN"),
		}},
		{"no capabilities", specs.Process{Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: caps()}},
		{"all capabilities", specs.Process{Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: allCapabilities()}},
		{"limits", specs.Process{Cwd: "/", Env: []string{"PATH=/bin"}, Rlimits: []specs.POSIXRlimit{
			{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 99}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}, {Type: "RLIMIT_NPROC", Soft: 500, Hard: 501},
		}}},
	} {
		c.p.Args = script
		ours, out := g.exec(t, "alike", "ours", &c.p)
		theirs, want := g.exec(t, "alike", "theirs", byLibcontainer(c.p))
		if ours.GetStatus() != theirs.GetStatus() || out != want || strings.Count(out, "\n") < 40 {
			t.Errorf("%s: the usher's exited with %d:\n%s\nand libcontainer's with %d:\n%s", c.name, ours.GetStatus(), out, theirs.GetStatus(), want)
		}
		if !strings.Contains(out, "slack 50000\n") {
			t.Errorf("%s: it is not woken as exactly as others:\n%s", c.name, out)
		}
		if strings.Contains(out, "SECRET") {
			t.Errorf("%s: it has the init's environment:\n%s", c.name, out)
		}
	}
	if !g.usherWorks(t, "alike") {
		t.Error("these were not let in by the usher")
	}
}

// usherWorks says whether execs are let in by the usher. Those of libcontainer take up more
// than one process id each: Go has threads.
func (g *testGuest) usherWorks(t *testing.T, id string) bool {
	t.Helper()
	var pids []int
	for i := range 3 {
		_, out := g.exec(t, id, fmt.Sprint("pid", i), execSpec("sh", "-c", "echo $$"))
		pid, err := strconv.Atoi(strings.TrimSpace(out))
		if err != nil {
			t.Fatalf("a process id %q: %v", out, err)
		}
		pids = append(pids, pid)
	}
	return pids[1] == pids[0]+1 && pids[2] == pids[1]+1
}

// withUsher starts a container that sleeps, to which the usher lets execs in.
func (g *testGuest) withUsher(t *testing.T, id string) {
	t.Helper()
	g.sleeper(t, id, nil)
	if !g.usherWorks(t, id) {
		t.Fatal("there is no usher")
	}
}

// testExecUnusual: what the usher does not know is still done.
func testExecUnusual(t *testing.T, g *testGuest) {
	errno := uint(unix.EXDEV)
	g.sleeper(t, "filtered", func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &errno}},
		}
	})
	defer g.delete(t, "filtered")
	exit, out := g.exec(t, "filtered", "e", execSpec("sh", "-c", "mkdir /tmp/x; grep Seccomp: /proc/self/status"))
	if exit.GetStatus() != 0 || out != "Seccomp:\t2\n" {
		t.Errorf("in a container with a filter: %d %q", exit.GetStatus(), out)
	}
	if g.usherWorks(t, "filtered") {
		t.Error("the usher, which knows no filters, works for a container that has one")
	}

	g.sleeper(t, "odd", nil)
	defer g.delete(t, "odd")
	p := execSpec("awk", "{print $19}", "/proc/self/stat")
	p.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 5}
	if exit, out := g.exec(t, "odd", "e", p); exit.GetStatus() != 0 || out != "5\n" {
		t.Errorf("with a scheduler: %d %q", exit.GetStatus(), out)
	}
	// A users file that is none is libcontainer's to make something of.
	for _, users := range []string{"", "root\n", "# none\nroot:x:0:0::/root:/bin/sh\n", "root:x:0:0::/home/of root\n", strings.Repeat("user:x:12:12::/:/bin/sh\n", 2000)} {
		if exit, out := g.exec(t, "odd", "w", execSpec("sh", "-c", "printf %s '"+users+"' >/etc/passwd")); exit.GetStatus() != 0 {
			t.Fatalf("writing /etc/passwd: %d %s", exit.GetStatus(), out)
		}
		p := execSpec("sh", "-c", "echo $HOME")
		_, ours := g.exec(t, "odd", "ours", p)
		_, theirs := g.exec(t, "odd", "theirs", byLibcontainer(*p))
		if ours != theirs {
			t.Errorf("with users %.60q HOME is %q, libcontainer's %q", users, ours, theirs)
		}
	}
	restore := "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"
	g.exec(t, "odd", "w", execSpec("sh", "-c", "printf %s '"+restore+"' >/etc/passwd"))
}

// testExecRefused: what cannot be executed is told in libcontainer's words.
func testExecRefused(t *testing.T, g *testGuest) {
	g.sleeper(t, "refused", nil)
	defer g.delete(t, "refused")
	for _, c := range []struct {
		p    *specs.Process
		want string
	}{
		{execSpec("/etc/passwd"), "permission denied"},
		{execSpec("/bin"), "is a directory"},
		{execSpec("./no"), "no such file or directory"},
		{&specs.Process{Args: []string{"sh"}, Cwd: "/"}, "executable file not found in $PATH"},
		{&specs.Process{Args: []string{"sh"}, Cwd: "/nowhere", Env: []string{"PATH=/bin"}}, "no such file or directory"},
		{&specs.Process{Args: []string{"sh"}, Cwd: "/proc/self/fd/5", Env: []string{"PATH=/bin"}}, "chdir"},
		{&specs.Process{Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin", "odd"}}, "invalid environment variable"},
	} {
		s := g.open(t, "o")
		if err := g.addExec(t, "refused", "e", c.p, s); err != nil {
			t.Fatal(err)
		}
		ref := &agentv1.ProcessRef{ContainerId: "refused", ExecId: "e"}
		if _, err := g.api.StartProcess(testCtx(t), ref); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v in %s: %v, want %q", c.p.Args, c.p.Cwd, err, c.want)
		}
		if _, err := g.api.DeleteProcess(testCtx(t), ref); err != nil {
			t.Error(err)
		}
	}
}

// testUsherEnds: execs go on without the usher, and there is another soon.
func testUsherEnds(t *testing.T, g *testGuest) {
	g.withUsher(t, "usher")
	defer g.delete(t, "usher")
	g.signalUsher(t, "KILL")
	for i := range 2 {
		if exit, out := g.exec(t, "usher", fmt.Sprint("e", i), execSpec("echo", "in")); exit.GetStatus() != 0 || out != "in\n" {
			t.Errorf("exec %d after its end: %d %q", i, exit.GetStatus(), out)
		}
	}
	if !g.usherWorks(t, "usher") {
		t.Error("there is no other usher")
	}
	// It is in no container's sight, and nothing of ours is where a program begins.
	_, out := g.exec(t, "usher", "ps", execSpec("ps", "-o", "comm"))
	if got := strings.Fields(out); !slices.Equal(got, []string{"COMMAND", "sleep", "ps"}) {
		t.Errorf("the container's processes are %q", got)
	}
}

// signalUsher does what somebody may who sees all of the guest's processes.
func (g *testGuest) signalUsher(t *testing.T, signal string) {
	t.Helper()
	spec := rootSpec("signal", "sh", "-c", `
		for p in /proc/[0-9]*; do
			read name <$p/comm && [ "$name" = usher ] && kill -`+signal+` ${p#/proc/} && echo sent
		done 2>/dev/null; true`)
	leaveToLibcontainer(spec)
	exit, out, errs := g.run(t, "signal", spec)
	if exit.GetStatus() != 0 || out != "sent\n" {
		t.Fatalf("sending the usher SIG%s: %d %s%s", signal, exit.GetStatus(), out, errs)
	}
}

// testUsherEndsWhenAsked: an exec is executed once, though the usher was asked for it and
// has ended before it answered.
func testUsherEndsWhenAsked(t *testing.T, g *testGuest) {
	g.withUsher(t, "asked")
	defer g.delete(t, "asked")
	g.signalUsher(t, "STOP")
	s := g.open(t, "o")
	if err := g.addExec(t, "asked", "e", execSpec("echo", "once"), s); err != nil {
		t.Fatal(err)
	}
	ref := &agentv1.ProcessRef{ContainerId: "asked", ExecId: "e"}
	started := make(chan error, 1)
	ctx := testCtx(t)
	go func() {
		_, err := g.api.StartProcess(ctx, ref)
		started <- err
	}()
	select {
	case err := <-started:
		t.Errorf("the usher is stopped, and yet the exec was started (%v)", err)
	case <-time.After(200 * time.Millisecond):
	}
	g.signalUsher(t, "KILL")
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if out := <-readAll(s.stdout); out != "once\n" {
		t.Errorf("it says %q", out)
	}
	if exit, err := g.api.WaitProcess(ctx, ref); err != nil || exit.GetStatus() != 0 {
		t.Errorf("%v %v", exit, err)
	}
	if _, err := g.api.DeleteProcess(ctx, ref); err != nil {
		t.Error(err)
	}
}

// testUsherEndsWhileMaking: a container is made, though the usher was asked for it and has
// ended before it answered.
func testUsherEndsWhileMaking(t *testing.T, g *testGuest) {
	g.withUsher(t, "before")
	g.delete(t, "before")
	g.signalUsher(t, "STOP")
	s := g.open(t, "o")
	created := make(chan error, 1)
	go func() { created <- g.create(t, "making", testSpec("making", "echo", "once"), s) }()
	select {
	case err := <-created:
		t.Errorf("the usher is stopped, and yet the container was made (%v)", err)
	case <-time.After(200 * time.Millisecond):
	}
	g.signalUsher(t, "KILL")
	if err := <-created; err != nil {
		t.Fatal(err)
	}
	ref := &agentv1.ProcessRef{ContainerId: "making"}
	if _, err := g.api.StartProcess(testCtx(t), ref); err != nil {
		t.Fatal(err)
	}
	if out := <-readAll(s.stdout); out != "once\n" {
		t.Errorf("it says %q", out)
	}
	if exit, err := g.api.WaitProcess(testCtx(t), ref); err != nil || exit.GetStatus() != 0 {
		t.Errorf("%v %v", exit, err)
	}
}
