package e2e

import (
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/test/harness"
)

// checkLines compares an output line by line with what is wanted of each.
func checkLines(t *testing.T, output string, want []struct{ what, line string }) {
	t.Helper()
	lines := strings.Split(strings.TrimRight(output, "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d lines instead of %d:\n%s", len(lines), len(want), output)
	}
	for i, w := range want {
		if lines[i] != w.line {
			t.Errorf("%s: got %q, want %q", w.what, lines[i], w.line)
		}
	}
}

// testProcess checks the OCI process section, in the init and in an exec of it.
func testProcess(t *testing.T, c *harness.Cell) {
	const bindOnly = "0000000000000400" // CAP_NET_BIND_SERVICE, number 10
	script := `echo "$A"; echo "$B"; pwd; id -u; id -g; id -G; ulimit -Sn; ulimit -Hn; umask
		cat /proc/self/oom_score_adj; hostname
		cat /etc/secret 2>/dev/null || echo denied
		sed -n 's/^\(Cap...\|NoNewPrivs\):\t/\1 /p' /proc/self/status`
	umask := uint32(0o027)
	adjust := 500
	task := c.Container(t, harness.Sh(script+"; exec sleep 100000"), func(s *specs.Spec) {
		p := s.Process
		p.Env = append(p.Env, "A=1", "B=two words")
		p.Cwd = "/home/user"
		p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{10, 29}, Umask: &umask}
		only := []string{"CAP_NET_BIND_SERVICE"}
		p.Capabilities = &specs.LinuxCapabilities{Bounding: only, Permitted: only, Effective: only, Inheritable: only, Ambient: only}
		p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
		p.OOMScoreAdj = &adjust
		s.Hostname = "myhost"
	}).Create(t, harness.IO{})
	task.Start(t)
	want := []struct{ what, line string }{
		{"environment", "1"}, {"environment with a space", "two words"}, {"working directory", "/home/user"},
		{"user", "1000"}, {"group", "1000"}, {"groups", "1000 10 29"},
		{"soft limit of files", "100"}, {"hard limit of files", "200"}, {"umask", "0027"},
		{"OOM score", "500"}, {"hostname", "myhost"}, {"root's file", "denied"},
		{"inheritable", "CapInh " + bindOnly}, {"permitted", "CapPrm " + bindOnly}, {"effective", "CapEff " + bindOnly},
		{"bounding", "CapBnd " + bindOnly}, {"ambient", "CapAmb " + bindOnly}, {"no new privileges", "NoNewPrivs 1"},
	}
	checkLines(t, task.Expect(t, "NoNewPrivs"), want)
	if r := task.Shell(t, script); r.Status != 0 {
		t.Errorf("exec: %+v", r)
	} else {
		if c.Runtime == harness.RuntimeRunc {
			want[8].line = "0022" // runc 1.1 gives it to the init only
		}
		checkLines(t, r.Stdout, want)
	}
	// An exec may be another user elsewhere.
	p := task.Exec(t, harness.Command{Args: []string{"sh", "-c", "id -u; pwd; echo $ONLY$A"}, Changes: func(p *specs.Process) {
		p.User = specs.User{UID: 0}
		p.Cwd = "/tmp"
		p.Env = []string{"PATH=/bin", "ONLY=here"}
	}}, harness.IO{})
	p.Start(t)
	if r := p.Finish(t); r.Status != 0 || r.Stdout != "0\n/tmp\nhere\n" {
		t.Errorf("exec as another user: %+v", r)
	}
}

// testDefaultCapabilities compares with containerd's default set.
func testDefaultCapabilities(t *testing.T, c *harness.Cell) {
	r := c.Run(t, harness.Sh(`sed -n 's/^\(Cap...\|Seccomp\):\t/\1 /p' /proc/self/status`))
	checkLines(t, r.Stdout, []struct{ what, line string }{
		{"inheritable", "CapInh 0000000000000000"}, {"permitted", "CapPrm 00000000a80425fb"}, {"effective", "CapEff 00000000a80425fb"},
		{"bounding", "CapBnd 00000000a80425fb"}, {"ambient", "CapAmb 0000000000000000"}, {"seccomp", "Seccomp 0"},
	})
}

// testSeccomp forbids two system calls and lets all others pass.
func testSeccomp(t *testing.T, c *harness.Cell) {
	const enosys = 38
	number := uint(enosys)
	task := running(t, c, func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Architectures: []specs.Arch{specs.ArchX86_64},
			Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno},
				{Names: []string{"add_key"}, Action: specs.ActErrno, ErrnoRet: &number},
			},
		}
	})
	r := task.Shell(t, "sed -n 's/^Seccomp:\t//p' /proc/self/status; mkdir /tmp/x || echo no; probe keyring; rmdir /home/user && echo other calls work")
	if want := "2\nno\nfunction not implemented\nother calls work\n"; r.Status != 0 || r.Stdout != want || !strings.Contains(r.Stderr, "Operation not permitted") {
		t.Errorf("got %+v, want %q", r, want)
	}
}

// testPaths checks what is hidden, what is read-only, and sysctls.
func testPaths(t *testing.T, c *harness.Cell) {
	task := running(t, c, func(s *specs.Spec) {
		s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/etc/secret", "/home")
		s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/tmp")
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.domainname": "example.org"}
	})
	checkScripts(t, task, []struct{ what, script, want string }{
		{"masked file", "wc -c < /etc/secret", "0\n"},
		{"masked directory", "ls -A /home | wc -l", "0\n"},
		{"masked directory is not writable", "touch /home/x 2>/dev/null || echo no", "no\n"},
		{"masked by default", "head -c 1 /proc/kcore | wc -c", "0\n"},
		{"read-only path", "touch /tmp/x 2>/dev/null || echo no", "no\n"},
		{"read-only by default", "echo 1 > /proc/sys/vm/drop_caches 2>/dev/null || echo no", "no\n"},
		{"network sysctl", "cat /proc/sys/net/ipv4/ip_forward", "1\n"},
		{"other sysctl", "cat /proc/sys/kernel/domainname", "example.org\n"},
	})
}

// testDevices uses a device of the specification, and one that is forbidden.
func testDevices(t *testing.T, c *harness.Cell) {
	mode, uid, gid := os.FileMode(0o640), uint32(1000), uint32(29)
	major, minor := int64(1), int64(3)
	task := running(t, c, func(s *specs.Spec) {
		s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{
			Path: "/dev/mine", Type: "c", Major: major, Minor: minor, FileMode: &mode, UID: &uid, GID: &gid,
		})
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm",
		})
	})
	checkScripts(t, task, []struct{ what, script, want string }{
		{"its node", "stat -c '%t %T %a %u %g' /dev/mine", "1 3 640 1000 29\n"},
		{"use", "echo x > /dev/mine && echo yes", "yes\n"},
		{"default nodes", "cd /dev && ls -d null zero full random urandom tty ptmx stdin stdout stderr fd shm | wc -l", "12\n"},
		{"zero", "head -c 3 /dev/zero | wc -c", "3\n"},
		{"random", "head -c 3 /dev/urandom | wc -c", "3\n"},
		{"randomness is ready", "probe random | wc -c", "33\n"},
		{"a forbidden device", "mknod /dev/memory c 1 1 && head -c 1 /dev/memory 2>&1 || true", "head: /dev/memory: Operation not permitted\n"},
	})
}

// testNamespaces checks that a container is alone in its namespaces.
func testNamespaces(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	r := task.Shell(t, "ps -o pid,comm | sed -n '2,$p' | head -1; cat /proc/1/comm")
	if r.Status != 0 || strings.Fields(r.Stdout)[0] != "1" || !strings.Contains(r.Stdout, "sleep") {
		t.Errorf("its init is not process 1: %+v", r)
	}
	if r := task.Shell(t, "ls /proc | grep -c '^[0-9]'"); r.Status != 0 || len(strings.TrimSpace(r.Stdout)) != 1 {
		t.Errorf("it sees %s processes", r.Stdout)
	}
}

// terminal gives the init a terminal.
func terminal(s *specs.Spec) { s.Process.Terminal = true }
