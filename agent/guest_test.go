package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// guestTest is a test of what runs in a guest.
type guestTest struct {
	name string
	test func(*testing.T, *testGuest)
}

// containerTests are those of what every container does, whoever its init is.
func containerTests() []guestTest {
	return []guestTest{
		{"output", testOutput},
		{"exit status", testExitStatus},
		{"isolation", testIsolation},
		{"devices", testDevices},
		{"user", testUser},
		{"limits of the process", testProcessLimits},
		{"seccomp", testSeccomp},
		{"mounts", testMounts},
		{"hooks", testHooks},
		{"loopback", testLoopback},
		{"missing command", testMissingCommand},
		{"stdin", testStdin},
		{"no stdio", testNoStdio},
		{"terminal", testTerminal},
		{"exec", testExec},
	}
}

// TestGuest asks everything of a real agent in a real guest, with each kernel.
func TestGuest(t *testing.T) {
	inEachGuest(t, func(t *testing.T, g *testGuest) {
		for _, c := range slices.Concat(containerTests(), agentTests()) {
			t.Run(c.name, func(t *testing.T) { c.test(t, g) })
		}
	})
}

// inEachGuest starts a guest of each kernel.
func inEachGuest(t *testing.T, run func(*testing.T, *testGuest)) {
	t.Helper()
	list := kernels(t)
	agent := buildAgent(t)
	for _, dir := range list {
		t.Run(filepath.Base(dir), func(t *testing.T) { run(t, startGuest(t, dir, agent)) })
	}
}

// agentTests are those that a guest is asked once. The last ones look at what the others
// have left.
func agentTests() []guestTest {
	return []guestTest{
		{"bad requests", testBadRequests},
		{"much output at once", testBurst},
		{"grandchild keeps the pipe", testGrandchild},
		{"slow reader", testSlowReader},
		{"reader gone", testReaderGone},
		{"exec alike", testExecAlike},
		{"exec unusual", testExecUnusual},
		{"exec refused", testExecRefused},
		{"usher ends", testUsherEnds},
		{"usher ends when asked", testUsherEndsWhenAsked},
		{"usher ends while making", testUsherEndsWhileMaking},
		{"exec terminal", testExecTerminal},
		{"exec errors", testExecErrors},
		{"many execs", testManyExecs},
		{"signals", testSignals},
		{"killed before start", testKilledBeforeStart},
		{"told to end before start", testToldToEndBeforeStart},
		{"delete running", testDeleteRunning},
		{"pause", testPause},
		{"update", testUpdate},
		{"processors", testProcessors},
		{"sets of processors", testProcessorSets},
		{"huge pages", testHugePages},
		{"stats and pids", testStatsAndPids},
		{"out of memory", testOutOfMemory},
		{"orphans", testOrphans},
		{"shared PID namespace", testSharedPIDs},
		{"PID namespace of a container", testPIDsOfContainer},
		{"shared namespaces", testSharedNamespaces},
		{"sysctls", testSysctls},
		{"shared memory", testSharedMemory},
		{"network", testNetwork},
		{"network waits", testNetworkWaits},
		{"network names", testNetworkNames},
		{"forward", testForward},
		{"forward breaks", testForwardBreaks},
		{"many containers", testManyContainers},
		{"clock", testClock},
		{"descriptors", testDescriptors},
		{"agent's slack", testAgentsSlack},
		{"nothing left", testNothingLeft},
		{"new session", testNewSession},
	}
}

func testOutput(t *testing.T, g *testGuest) {
	exit, out, errs := g.run(t, "out", testSpec("out", "sh", "-c", "echo one; echo two >&2; exit 3"))
	if exit.Status != 3 || out != "one\n" || errs != "two\n" {
		t.Errorf("status %d, stdout %q, stderr %q", exit.Status, out, errs)
	}
	if exit.StdoutBytes != 4 || exit.StderrBytes != 4 {
		t.Errorf("counted %d and %d bytes", exit.StdoutBytes, exit.StderrBytes)
	}
	if exit.AgoUs > uint64((10 * time.Second).Microseconds()) {
		t.Errorf("exited %d µs ago", exit.AgoUs)
	}
}

func testExitStatus(t *testing.T, g *testGuest) {
	for script, want := range map[string]uint32{"true": 0, "exit 255": 255, "kill -9 $$; sleep 9": 137, "kill -TERM $$; sleep 9": 143} {
		// A shell of its own below the init, which ignores its own kill.
		if got, _ := g.shell(t, "status", fmt.Sprintf("sh -c '%s'; exit $?", script)); got != want {
			t.Errorf("%s: %d, want %d", script, got, want)
		}
	}
}

func testIsolation(t *testing.T, g *testGuest) {
	_, out := g.shell(t, "iso", `hostname; echo pid $$; ls /sys/class/net; cat /proc/self/cgroup
		cat /proc/kcore 2>/dev/null | wc -c; echo 1 2>/dev/null >/proc/sys/kernel/panic || echo readonly
		mknod /tmp/mem c 1 1 && { cat /tmp/mem >/dev/null 2>&1 || echo no device; }
		test -e /ctr || echo no guest root; echo x >/dev/null && echo null`)
	for _, want := range []string{"ctr-iso\n", "pid 1\n", "\nlo\n", "0::/\n", "\n0\n", "readonly\n", "no device\n", "no guest root\n", "null\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

// testDevices: in a template the filter for the usual devices has been made before, as
// long as no container asks for others.
func testDevices(t *testing.T, g *testGuest) {
	const script = `mknod /tmp/serial c 4 64 && mknod /tmp/memory c 1 1
		echo x >/dev/null && echo null
		(: >>/tmp/serial) 2>/dev/null && echo serial
		(: </tmp/memory) 2>/dev/null && echo memory; true`
	major, minor := int64(4), int64(64)
	serial := func(access string) *specs.Spec {
		spec := testSpec("devices", "sh", "-c", script)
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: access}
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, rule)
		return spec
	}
	ctrs := testSpec("devices", "sh", "-c", script)
	if err := oci.WithDefaultUnixDevices(t.Context(), nil, nil, ctrs); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		spec       *specs.Spec
	}{
		{"usual", "null\n", testSpec("devices", "sh", "-c", script)},
		{"one more", "null\nserial\n", serial("rw")},
		{"one more to make", "null\n", serial("m")},
		{"usual again", "null\n", testSpec("devices", "sh", "-c", script)},
		{"ctr's", "null\n", ctrs},
	} {
		if exit, out, errs := g.run(t, "devices", c.spec); exit.GetStatus() != 0 || out != c.want {
			t.Errorf("%s: exited with %d: %q, want %q: %s", c.name, exit.GetStatus(), out, c.want, errs)
		}
	}
	// Limits are changed without a look at the devices.
	g.sleeper(t, "devices", nil)
	defer g.delete(t, "devices")
	if _, err := g.api.UpdateContainer(t.Context(), &agentv1.UpdateContainerRequest{ContainerId: "devices", Resources: []byte(`{"pids":{"limit":50}}`)}); err != nil {
		t.Error(err)
	}
	if exit, out := g.exec(t, "devices", "e", execSpec("sh", "-c", script)); exit.GetStatus() != 0 || out != "null\n" {
		t.Errorf("after an update: exited with %d: %q", exit.GetStatus(), out)
	}
}

func testUser(t *testing.T, g *testGuest) {
	spec := testSpec("user", "sh", "-c", "id -u; id -g; id -G; umask; pwd; echo $MARK; grep -E 'CapEff|NoNewPrivs' /proc/self/status")
	umask := uint32(0o27)
	spec.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5, 1234}, Umask: &umask}
	spec.Process.Cwd = "/vol"
	spec.Process.Env = append(spec.Process.Env, "MARK=marked")
	_, out, _ := g.run(t, "user", spec)
	want := "1000\n1000\n1000 5 1234\n0027\n/vol\nmarked\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n"
	if out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	spec = testSpec("caps", "sh", "-c", "grep -E 'CapEff|NoNewPrivs' /proc/self/status")
	caps := []string{"CAP_NET_ADMIN", "CAP_CHOWN"}
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	spec.Process.NoNewPrivileges = false
	if _, out, _ := g.run(t, "caps", spec); out != "CapEff:\t0000000000001001\nNoNewPrivs:\t0\n" {
		t.Errorf("got %q", out)
	}
}

func testProcessLimits(t *testing.T, g *testGuest) {
	spec := testSpec("limits", "sh", "-c", "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj; uname -m; cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
	spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
	oom := 321
	spec.Process.OOMScoreAdj = &oom
	spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"}
	exit, out, errs := g.run(t, "limits", spec)
	if out != "100\n200\n321\ni686\n80\n" || exit.Status != 0 {
		t.Errorf("%d %q %q", exit.Status, out, errs)
	}
	spec = testSpec("inherit", "sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -u")
	spec.Process.Rlimits = nil
	if _, out, _ := g.run(t, "inherit", spec); out != "1048576\n1048576\nunlimited\n" {
		t.Errorf("inherited limits: %q", out)
	}
}

func testSeccomp(t *testing.T, g *testGuest) {
	errno := uint(unix.EXDEV)
	for _, nnp := range []bool{true, false} {
		spec := testSpec("seccomp", "sh", "-c", "mkdir /tmp/x; grep Seccomp: /proc/self/status; echo on")
		spec.Process.NoNewPrivileges = nnp
		spec.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86},
			Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &errno}},
		}
		_, out, errs := g.run(t, "seccomp", spec)
		if !strings.Contains(errs, "Invalid cross-device link") && !strings.Contains(errs, "cross") || out != "Seccomp:\t2\non\n" {
			t.Errorf("no new privileges %v: %q %q", nnp, out, errs)
		}
	}
}

func testMounts(t *testing.T, g *testGuest) {
	spec := testSpec("mounts", "sh", "-c", `touch /file 2>&1; echo x >/vol/made; cat /single; touch /single/no 2>&1
		touch /ro/no 2>&1; df /small | tail -1 | awk '{print $2}'`)
	spec.Root.Readonly = true
	// In the guest, a container may bind what the guest has.
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/vol", Type: "bind", Source: "/tmp", Options: []string{"rbind", "rw", "rprivate"}},
		specs.Mount{Destination: "/single", Type: "bind", Source: guestRootfs + "/etc/group", Options: []string{"bind", "ro"}},
		specs.Mount{Destination: "/ro", Type: "bind", Source: "/tmp", Options: []string{"bind", "ro"}},
		specs.Mount{Destination: "/small", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1024k"}},
	)
	spec.Root.Readonly = false // so that the targets can be made
	if exit, out, errs := g.run(t, "mounts", spec); exit.Status != 0 || !strings.Contains(out, "root:x:0:") ||
		!strings.Contains(out, "Read-only file system") || !strings.HasSuffix(out, "1024\n") {
		t.Errorf("%d %q %q", exit.Status, out, errs)
	}
	spec.Root.Readonly = true
	if _, out, errs := g.run(t, "mounts", spec); !strings.Contains(out, "/file: Read-only file system") {
		t.Errorf("%q %q", out, errs)
	}
	// A mount of the guest's, made for the container and gone with it.
	spec = testSpec("guestmount", "sh", "-c", "cat /mnt2/word")
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/mnt2", Type: "bind", Source: "/run/test/fs", Options: []string{"bind"}})
	data, _ := json.Marshal(spec)
	create := func(mounts ...*agentv1.Mount) error {
		_, err := g.api.CreateContainer(testCtx(t), &agentv1.CreateContainerRequest{ContainerId: "guestmount", Spec: data, Mounts: mounts})
		return err
	}
	if err := create(&agentv1.Mount{Type: "tmpfs", Source: "x", Target: "/run/test/fs", Options: []string{"size=1m", "nosuid"}}); err != nil {
		t.Fatal(err)
	}
	g.delete(t, "guestmount")
	err := create(&agentv1.Mount{Type: "tmpfs", Source: "x", Target: "/run/test/fs"}, &agentv1.Mount{Type: "nosuchfs", Target: "/run/test/other"})
	if err == nil || !strings.Contains(err.Error(), "nosuchfs") {
		t.Errorf("a mount that cannot be: %v", err)
	}
	if _, out := g.shell(t, "left", "mount"); strings.Contains(out, "/run/test") {
		t.Errorf("mounts left:\n%s", out)
	}
}

func testHooks(t *testing.T, g *testGuest) {
	spec := testSpec("hooks", "cat", "/run/hook")
	spec.Hooks = &specs.Hooks{
		StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "/bin/cat >/run/hook; echo >>/run/hook"}}},
	}
	_, out, errs := g.run(t, "hooks", spec)
	var state specs.State
	if err := json.Unmarshal([]byte(out), &state); err != nil || state.ID != "hooks" || state.Bundle != "/ctr" || state.Status != specs.StateCreated {
		t.Errorf("the hook was given %q (%v) %s", out, err, errs)
	}
}

func testLoopback(t *testing.T, g *testGuest) {
	if status, out := g.shell(t, "lo", "ping -c1 -W2 127.0.0.1 && ip -o link show lo"); status != 0 || !strings.Contains(out, "LOOPBACK,UP") {
		t.Errorf("%d %s", status, out)
	}
}

func testMissingCommand(t *testing.T, g *testGuest) {
	err := g.create(t, "missing", testSpec("missing", "no-such-command"), g.open(t, "oe"))
	want := `unable to start container process: error during container init: exec: "no-such-command": executable file not found in $PATH`
	if status.Code(err) != codes.Unknown || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
	// Nothing is left behind: the id is free.
	if status, out := g.shell(t, "missing", "echo ok"); status != 0 || out != "ok\n" {
		t.Errorf("%d %q", status, out)
	}
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: want %v, got %v", what, want, err)
	}
}

func testBadRequests(t *testing.T, g *testGuest) {
	ctx := testCtx(t)
	raw := func(id string, spec []byte, s *agentv1.Streams) error {
		_, err := g.api.CreateContainer(ctx, &agentv1.CreateContainerRequest{ContainerId: id, Spec: spec, Streams: s})
		return err
	}
	good, _ := json.Marshal(testSpec("bad", "true"))
	wantCode(t, "id ../x", raw("../x", good, nil), codes.InvalidArgument)
	wantCode(t, "no id", raw("", good, nil), codes.InvalidArgument)
	wantCode(t, "no JSON", raw("bad", []byte("{"), nil), codes.InvalidArgument)
	wantCode(t, "no spec", raw("bad", nil, nil), codes.InvalidArgument)
	wantCode(t, "empty spec", raw("bad", []byte("{}"), nil), codes.InvalidArgument)
	noArgs, _ := json.Marshal(testSpec("bad"))
	wantCode(t, "no args", raw("bad", noArgs, nil), codes.InvalidArgument)
	wantCode(t, "stderr of a terminal", raw("bad", good, &agentv1.Streams{Terminal: true, Stderr: 5}), codes.InvalidArgument)
	noRoot := testSpec("bad", "true")
	noRoot.Root.Path = "/nowhere"
	noRootJSON, _ := json.Marshal(noRoot)
	if err := raw("bad", noRootJSON, nil); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("no rootfs: %v", err)
	}
	ref := &agentv1.ProcessRef{ContainerId: "none"}
	_, err := g.api.StartProcess(ctx, ref)
	wantCode(t, "start", err, codes.NotFound)
	_, err = g.api.WaitProcess(ctx, ref)
	wantCode(t, "wait", err, codes.NotFound)
	_, err = g.api.DeleteProcess(ctx, ref)
	wantCode(t, "delete", err, codes.NotFound)
	_, err = g.api.Stats(ctx, &agentv1.ContainerRef{ContainerId: "none"})
	wantCode(t, "stats", err, codes.NotFound)
	_, err = g.api.SignalProcess(ctx, &agentv1.SignalProcessRequest{ContainerId: "none", Signal: 99})
	wantCode(t, "signal 99", err, codes.InvalidArgument)

	if err := raw("dup", good, nil); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "taken id", raw("dup", good, nil), codes.AlreadyExists)
	g.delete(t, "dup")
}

func testStdin(t *testing.T, g *testGuest) {
	const size = 4 << 20
	data := make([]byte, size)
	rand.New(rand.NewSource(1)).Read(data)
	s := g.open(t, "ioe")
	if err := g.create(t, "stdin", testSpec("stdin", "cat"), s); err != nil {
		t.Fatal(err)
	}
	ref := &agentv1.ProcessRef{ContainerId: "stdin"}
	sum := make(chan [32]byte, 1)
	go func() {
		h := sha256.New()
		io.Copy(h, s.stdout)
		sum <- [32]byte(h.Sum(nil))
	}()
	go func() {
		// Some before the start, the end by closing.
		s.stdin.Write(data)
		s.stdin.Close()
	}()
	if _, err := g.api.StartProcess(testCtx(t), ref); err != nil {
		t.Fatal(err)
	}
	exit, err := g.api.WaitProcess(testCtx(t), ref)
	if err != nil || exit.Status != 0 || exit.StdoutBytes != size {
		t.Errorf("%v %v", exit, err)
	}
	if <-sum != sha256.Sum256(data) {
		t.Error("what came back is not what went in")
	}
}

func testNoStdio(t *testing.T, g *testGuest) {
	s := &stdioStreams{want: &agentv1.Streams{}}
	if err := g.create(t, "none", testSpec("none", "sh", "-c", "cat; echo lost; exit 4"), s); err != nil {
		t.Fatal(err)
	}
	ref := &agentv1.ProcessRef{ContainerId: "none"}
	if _, err := g.api.StartProcess(testCtx(t), ref); err != nil {
		t.Fatal(err)
	}
	if exit, err := g.api.WaitProcess(testCtx(t), ref); err != nil || exit.Status != 4 || exit.StdoutBytes != 0 {
		t.Errorf("%v %v", exit, err)
	}
}

func testBurst(t *testing.T, g *testGuest) {
	exit, out, _ := g.run(t, "burst", testSpec("burst", "sh", "-c", "head -c 8388608 /dev/zero; echo end >&2"))
	if len(out) != 8<<20 || exit.StdoutBytes != 8<<20 || exit.StderrBytes != 4 {
		t.Errorf("%d bytes came, %d counted", len(out), exit.StdoutBytes)
	}
}

func testGrandchild(t *testing.T, g *testGuest) {
	// Without a PID namespace of its own the grandchild outlives the init.
	spec := guestPIDsSpec("grand", "sh", "-c", "(trap '' HUP; sleep 2; echo later) & echo now")
	s := g.open(t, "oe")
	if err := g.create(t, "grand", spec, s); err != nil {
		t.Fatal(err)
	}
	ref := &agentv1.ProcessRef{ContainerId: "grand"}
	out := readAll(s.stdout)
	if _, err := g.api.StartProcess(testCtx(t), ref); err != nil {
		t.Fatal(err)
	}
	exit, err := g.api.WaitProcess(testCtx(t), ref)
	if err != nil || exit.StdoutBytes != 4 {
		t.Errorf("%v %v", exit, err)
	}
	select {
	case got := <-out:
		t.Errorf("the stream ended with the init: %q", got)
	default:
	}
	if got := <-out; got != "now\nlater\n" {
		t.Errorf("got %q", got)
	}
}

func testSlowReader(t *testing.T, g *testGuest) {
	s := g.open(t, "oe")
	if err := g.create(t, "slow", testSpec("slow", "sh", "-c", "head -c 2000000 /dev/zero"), s); err != nil {
		t.Fatal(err)
	}
	ref := &agentv1.ProcessRef{ContainerId: "slow"}
	if _, err := g.api.StartProcess(testCtx(t), ref); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() {
		exit, err := g.api.WaitProcess(testCtx(t), ref)
		if err == nil && exit.StdoutBytes != 2000000 {
			err = fmt.Errorf("%d bytes counted", exit.StdoutBytes)
		}
		waited <- err
	}()
	// Nobody reads. Others are not stalled by that.
	if status, out := g.shell(t, "other", "echo fast"); status != 0 || out != "fast\n" {
		t.Errorf("%d %q", status, out)
	}
	select {
	case err := <-waited:
		t.Errorf("wait answered though the output is not read: %v", err)
	default:
	}
	if got := <-readAll(s.stdout); len(got) != 2000000 {
		t.Errorf("%d bytes came", len(got))
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
}

func testReaderGone(t *testing.T, g *testGuest) {
	s := g.open(t, "oe")
	if err := g.create(t, "gone", testSpec("gone", "sh", "-c", "head -c 8000000 /dev/zero && exit 5"), s); err != nil {
		t.Fatal(err)
	}
	ref := &agentv1.ProcessRef{ContainerId: "gone"}
	if _, err := g.api.StartProcess(testCtx(t), ref); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(s.stdout, make([]byte, 1000))
	s.stdout.Close()
	if exit, err := g.api.WaitProcess(testCtx(t), ref); err != nil || exit.Status != 5 {
		t.Errorf("the process did not get on without its reader: %v %v", exit, err)
	}
}

func testTerminal(t *testing.T, g *testGuest) {
	ctx := testCtx(t)
	s := g.open(t, "iot")
	s.want.Width, s.want.Height = 100, 30
	if err := g.create(t, "tty", testSpec("tty", "sh", "-c", "stty size; tty; read x; stty size; echo got $x; exit 6"), s); err != nil {
		t.Fatal(err)
	}
	ref := &agentv1.ProcessRef{ContainerId: "tty"}
	if _, err := g.api.StartProcess(ctx, ref); err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	until(t, s.stdout, &seen, "/dev/")
	if _, err := g.api.ResizeTerminal(ctx, &agentv1.ResizeTerminalRequest{ContainerId: "tty", Width: 77, Height: 11}); err != nil {
		t.Error(err)
	}
	fmt.Fprintf(s.stdin, "word\n")
	exit, err := g.api.WaitProcess(ctx, ref)
	if err != nil || exit.Status != 6 {
		t.Errorf("%v %v", exit, err)
	}
	rest, _ := io.ReadAll(s.stdout)
	seen.Write(rest)
	out := seen.String()
	if !strings.HasPrefix(out, "30 100\r\n/dev/") || !strings.Contains(out, "11 77\r\ngot word\r\n") {
		t.Errorf("got %q", out)
	}
	if exit.GetStdoutBytes() != uint64(len(out)) {
		t.Errorf("%d bytes came, %d counted", len(out), exit.GetStdoutBytes())
	}
	_, err = g.api.ResizeTerminal(ctx, &agentv1.ResizeTerminalRequest{ContainerId: "tty", Width: 77, Height: 11})
	wantCode(t, "resize of a stopped terminal", err, codes.FailedPrecondition)
}

// until reads until what is seen holds want.
func until(t *testing.T, r io.Reader, seen *bytes.Buffer, want string) {
	t.Helper()
	buf := make([]byte, 1024)
	for !strings.Contains(seen.String(), want) {
		n, err := r.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v after %q", err, seen.String())
		}
	}
}

// sleeper starts a container that waits to be killed.
func (g *testGuest) sleeper(t *testing.T, id string, change func(*specs.Spec)) {
	t.Helper()
	spec := testSpec(id, "sleep", "1000")
	if change != nil {
		change(spec)
	}
	if err := g.create(t, id, spec, &stdioStreams{want: &agentv1.Streams{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.api.StartProcess(testCtx(t), &agentv1.ProcessRef{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
}

func execSpec(args ...string) *specs.Process {
	return &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true}
}

func (g *testGuest) addExec(t *testing.T, id, exec string, p *specs.Process, s *stdioStreams) error {
	t.Helper()
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.api.CreateProcess(testCtx(t), &agentv1.CreateProcessRequest{ContainerId: id, ExecId: exec, Process: data, Streams: s.want})
	return err
}

// exec runs an exec to its end.
func (g *testGuest) exec(t *testing.T, id, exec string, p *specs.Process) (exit *agentv1.Exit, out string) {
	t.Helper()
	s := g.open(t, "o")
	if err := g.addExec(t, id, exec, p, s); err != nil {
		t.Fatal(err)
	}
	ref := &agentv1.ProcessRef{ContainerId: id, ExecId: exec}
	if _, err := g.api.StartProcess(testCtx(t), ref); err != nil {
		t.Fatal(err)
	}
	out = <-readAll(s.stdout)
	exit, err := g.api.WaitProcess(testCtx(t), ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.api.DeleteProcess(testCtx(t), ref); err != nil {
		t.Error(err)
	}
	return exit, out
}

func testExec(t *testing.T, g *testGuest) {
	g.sleeper(t, "exec", nil)
	p := execSpec("sh", "-c", "id -u; pwd; echo $A; hostname; ps | grep -c sleep; exit 9")
	p.User = specs.User{UID: 1000, GID: 1000}
	p.Cwd, p.Env = "/vol", []string{"PATH=/bin", "A=b"}
	exit, out := g.exec(t, "exec", "e1", p)
	if exit.Status != 9 || !strings.HasPrefix(out, "1000\n/vol\nb\nctr-exec\n") {
		t.Errorf("%d %q", exit.Status, out)
	}
	// The id is free again.
	if exit, out := g.exec(t, "exec", "e1", execSpec("echo", "again")); exit.Status != 0 || out != "again\n" {
		t.Errorf("%d %q", exit.Status, out)
	}
	p = execSpec("sh", "-c", "grep Cpus_allowed_list /proc/self/status")
	p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "0"}
	if exit, out := g.exec(t, "exec", "affinity", p); exit.Status != 0 || out != "Cpus_allowed_list:\t0\n" {
		t.Errorf("%d %q", exit.Status, out)
	}
}

func testExecTerminal(t *testing.T, g *testGuest) {
	g.sleeper(t, "exectty", nil)
	s := g.open(t, "iot")
	s.want.Width, s.want.Height = 40, 20
	if err := g.addExec(t, "exectty", "sh", execSpec("sh"), s); err != nil {
		t.Fatal(err)
	}
	ref := &agentv1.ProcessRef{ContainerId: "exectty", ExecId: "sh"}
	if _, err := g.api.StartProcess(testCtx(t), ref); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(s.stdin, "stty size\nexit 11\n")
	exit, err := g.api.WaitProcess(testCtx(t), ref)
	out := <-readAll(s.stdout)
	if err != nil || exit.Status != 11 || !strings.Contains(out, "20 40\r\n") {
		t.Errorf("%v %v %q", exit, err, out)
	}
}

func testExecErrors(t *testing.T, g *testGuest) {
	ctx := testCtx(t)
	g.sleeper(t, "xe", nil)
	none := &stdioStreams{want: &agentv1.Streams{}}
	ref := func(exec string) *agentv1.ProcessRef {
		return &agentv1.ProcessRef{ContainerId: "xe", ExecId: exec}
	}
	if err := g.addExec(t, "xe", "bad", execSpec("no-such"), none); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "same exec id", g.addExec(t, "xe", "bad", execSpec("true"), none), codes.AlreadyExists)
	_, err := g.api.SignalProcess(ctx, &agentv1.SignalProcessRequest{ContainerId: "xe", ExecId: "bad", Signal: 9})
	wantCode(t, "signal before start", err, codes.FailedPrecondition)
	_, err = g.api.StartProcess(ctx, ref("bad"))
	if err == nil || !strings.Contains(err.Error(), `exec: "no-such": executable file not found in $PATH`) {
		t.Errorf("missing command: %v", err)
	}
	if exit, err := g.api.WaitProcess(ctx, ref("bad")); err != nil || exit.Status != 255 {
		t.Errorf("wait for one that did not start: %v %v", exit, err)
	}
	_, err = g.api.StartProcess(ctx, ref("bad"))
	wantCode(t, "start again", err, codes.FailedPrecondition)
	if _, err = g.api.DeleteProcess(ctx, ref("bad")); err != nil {
		t.Error(err)
	}
	wantCode(t, "exec id", g.addExec(t, "xe", "a/b", execSpec("true"), none), codes.InvalidArgument)

	if err := g.addExec(t, "xe", "long", execSpec("sleep", "1000"), none); err != nil {
		t.Fatal(err)
	}
	if _, err := g.api.StartProcess(ctx, ref("long")); err != nil {
		t.Fatal(err)
	}
	_, err = g.api.DeleteProcess(ctx, ref("long"))
	wantCode(t, "delete of a running exec", err, codes.FailedPrecondition)
	_, err = g.api.StartProcess(ctx, ref("nope"))
	wantCode(t, "no such exec", err, codes.NotFound)

	kill := &agentv1.SignalProcessRequest{ContainerId: "xe", Signal: 9}
	if _, err := g.api.SignalProcess(ctx, kill); err != nil {
		t.Fatal(err)
	}
	for _, exec := range []string{"", "long"} {
		if exit, err := g.api.WaitProcess(ctx, ref(exec)); err != nil || exit.Status != 137 {
			t.Errorf("%q: %v %v", exec, exit, err)
		}
	}
	wantCode(t, "exec in a stopped container", g.addExec(t, "xe", "late", execSpec("true"), none), codes.FailedPrecondition)
	_, err = g.api.SignalProcess(ctx, kill)
	wantCode(t, "kill of a gone process", err, codes.NotFound)
	kill.All = true
	_, err = g.api.SignalProcess(ctx, kill)
	wantCode(t, "kill of all gone processes", err, codes.NotFound)
}

func testManyExecs(t *testing.T, g *testGuest) {
	g.sleeper(t, "many", nil)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			want := fmt.Sprintf("exec %d\n", i)
			exit, out := g.exec(t, "many", fmt.Sprintf("e%d", i), execSpec("sh", "-c", fmt.Sprintf("echo exec %d; exit %d", i, i)))
			if exit.Status != uint32(i) || out != want {
				t.Errorf("%d: %d %q", i, exit.Status, out)
			}
		})
	}
	wg.Wait()
}

func testSignals(t *testing.T, g *testGuest) {
	ctx := testCtx(t)
	s := g.open(t, "o")
	// The init forwards nothing; "all" reaches its child by itself. The child is
	// the last to be ready.
	spec := testSpec("sig", "sh", "-c", `trap 'echo init' USR1; (trap 'echo child; exit' USR1; echo up; while :; do sleep 0.1; done) & while :; do wait; done`)
	if err := g.create(t, "sig", spec, s); err != nil {
		t.Fatal(err)
	}
	if _, err := g.api.StartProcess(ctx, &agentv1.ProcessRef{ContainerId: "sig"}); err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	until(t, s.stdout, &seen, "up\n")
	send := func(sig unix.Signal, all bool) {
		t.Helper()
		if _, err := g.api.SignalProcess(ctx, &agentv1.SignalProcessRequest{ContainerId: "sig", Signal: uint32(sig), All: all}); err != nil {
			t.Fatal(err)
		}
	}
	send(unix.SIGUSR1, false)
	until(t, s.stdout, &seen, "init\n")
	if strings.Contains(seen.String(), "child") {
		t.Errorf("the child got a signal to its parent: %q", seen.String())
	}
	send(unix.SIGUSR1, true)
	until(t, s.stdout, &seen, "child\n")
	send(unix.SIGKILL, true)
	if exit, err := g.api.WaitProcess(ctx, &agentv1.ProcessRef{ContainerId: "sig"}); err != nil || exit.Status != 137 {
		t.Errorf("%v %v", exit, err)
	}
}

func testKilledBeforeStart(t *testing.T, g *testGuest) {
	ctx := testCtx(t)
	if err := g.create(t, "early", testSpec("early", "true"), &stdioStreams{want: &agentv1.Streams{}}); err != nil {
		t.Fatal(err)
	}
	ref := &agentv1.ProcessRef{ContainerId: "early"}
	if _, err := g.api.SignalProcess(ctx, &agentv1.SignalProcessRequest{ContainerId: "early", Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if exit, err := g.api.WaitProcess(ctx, ref); err != nil || exit.Status != 137 {
		t.Errorf("%v %v", exit, err)
	}
	_, err := g.api.StartProcess(ctx, ref)
	wantCode(t, "start of a dead container", err, codes.FailedPrecondition)
}

// testToldToEndBeforeStart: whoever has made it, an init that waits ends by a signal.
func testToldToEndBeforeStart(t *testing.T, g *testGuest) {
	ctx := testCtx(t)
	for name, change := range map[string]func(*specs.Spec){"the usher's": func(*specs.Spec) {}, "libcontainer's": leaveToLibcontainer} {
		spec := testSpec("told", "true")
		change(spec)
		if err := g.create(t, "told", spec, &stdioStreams{want: &agentv1.Streams{}}); err != nil {
			t.Fatal(err)
		}
		if _, err := g.api.SignalProcess(ctx, &agentv1.SignalProcessRequest{ContainerId: "told", Signal: uint32(unix.SIGTERM)}); err != nil {
			t.Fatal(err)
		}
		if exit, err := g.api.WaitProcess(ctx, &agentv1.ProcessRef{ContainerId: "told"}); err != nil || exit.Status != 2 {
			t.Errorf("%s: %v %v", name, exit, err)
		}
		g.delete(t, "told")
	}
}

func testDeleteRunning(t *testing.T, g *testGuest) {
	ctx := testCtx(t)
	g.sleeper(t, "del", nil)
	waited := make(chan error, 1)
	go func() {
		exit, err := g.api.WaitProcess(ctx, &agentv1.ProcessRef{ContainerId: "del"})
		if err == nil && exit.Status != 137 {
			err = fmt.Errorf("status %d", exit.Status)
		}
		waited <- err
	}()
	// Until the wait has arrived nothing is proven, so ask something behind it.
	if _, err := g.api.Pids(ctx, &agentv1.ContainerRef{ContainerId: "del"}); err != nil {
		t.Fatal(err)
	}
	g.delete(t, "del")
	if err := <-waited; err != nil && status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	// A container that was made and never started, and a paused one.
	if err := g.create(t, "del", testSpec("del", "true"), &stdioStreams{want: &agentv1.Streams{}}); err != nil {
		t.Fatal(err)
	}
	g.delete(t, "del")
	g.sleeper(t, "del", nil)
	if _, err := g.api.PauseContainer(ctx, &agentv1.ContainerRef{ContainerId: "del"}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.api.DeleteProcess(ctx, &agentv1.ProcessRef{ContainerId: "del"}); err != nil {
		t.Error(err)
	}
}

func testPause(t *testing.T, g *testGuest) {
	ctx := testCtx(t)
	ref := &agentv1.ContainerRef{ContainerId: "pause"}
	s := g.open(t, "io")
	if err := g.create(t, "pause", testSpec("pause", "cat"), s); err != nil {
		t.Fatal(err)
	}
	if _, err := g.api.StartProcess(ctx, &agentv1.ProcessRef{ContainerId: "pause"}); err != nil {
		t.Fatal(err)
	}
	_, err := g.api.ResumeContainer(ctx, ref)
	wantCode(t, "resume of a running container", err, codes.FailedPrecondition)
	if _, err := g.api.PauseContainer(ctx, ref); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(s.stdin, "hello\n")
	s.stdout.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, _ := s.stdout.Read(make([]byte, 10)); n != 0 {
		t.Error("a paused container answers")
	}
	none := &stdioStreams{want: &agentv1.Streams{}}
	if err := g.addExec(t, "pause", "e", execSpec("true"), none); err != nil {
		t.Fatal(err)
	}
	_, err = g.api.StartProcess(ctx, &agentv1.ProcessRef{ContainerId: "pause", ExecId: "e"})
	wantCode(t, "exec in a paused container", err, codes.FailedPrecondition)
	if _, err := g.api.ResumeContainer(ctx, ref); err != nil {
		t.Fatal(err)
	}
	s.stdout.SetReadDeadline(time.Now().Add(testPatience))
	var seen bytes.Buffer
	until(t, s.stdout, &seen, "hello\n")
	if _, err := g.api.PauseContainer(ctx, ref); err != nil {
		t.Fatal(err)
	}
	if _, err := g.api.SignalProcess(ctx, &agentv1.SignalProcessRequest{ContainerId: "pause", Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if exit, err := g.api.WaitProcess(ctx, &agentv1.ProcessRef{ContainerId: "pause"}); err != nil || exit.Status != 137 {
		t.Errorf("a paused container that was killed: %v %v", exit, err)
	}
}

func testUpdate(t *testing.T, g *testGuest) {
	limit := int64(64 << 20)
	g.sleeper(t, "upd", func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit} })
	read := func() string {
		t.Helper()
		exit, out := g.exec(t, "upd", "r", execSpec("sh", "-c", "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max cpu.weight"))
		if exit.Status != 0 {
			t.Fatal(out)
		}
		return out
	}
	if out := read(); !strings.HasPrefix(out, "67108864\nmax\nmax 100000\n") {
		t.Errorf("before: %q", out)
	}
	update := func(json string) error {
		_, err := g.api.UpdateContainer(testCtx(t), &agentv1.UpdateContainerRequest{ContainerId: "upd", Resources: []byte(json)})
		return err
	}
	if err := update(`{"pids":{"limit":77},"cpu":{"quota":50000,"period":100000,"shares":2048}}`); err != nil {
		t.Fatal(err)
	}
	if out := read(); !strings.HasPrefix(out, "67108864\n77\n50000 100000\n") {
		t.Errorf("after: %q", out)
	}
	if err := update(`{"memory":{"limit":134217728}}`); err != nil {
		t.Fatal(err)
	}
	if out := read(); !strings.HasPrefix(out, "134217728\n77\n50000 100000\n") {
		t.Errorf("after the second: %q", out)
	}
	wantCode(t, "bad JSON", update("{"), codes.InvalidArgument)
	if err := update(`{"cpu":{"cpus":"99"},"pids":{"limit":5}}`); err == nil {
		t.Error("a CPU that does not exist was accepted")
	}
	if out := read(); !strings.HasPrefix(out, "134217728\n77\n") {
		t.Errorf("after a failed update: %q", out)
	}
}

func testStatsAndPids(t *testing.T, g *testGuest) {
	ctx := testCtx(t)
	limit, pids := int64(128<<20), int64(50)
	g.sleeper(t, "st", func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	})
	none := &stdioStreams{want: &agentv1.Streams{}}
	if err := g.addExec(t, "st", "ex", execSpec("sh", "-c", "sleep 999; true"), none); err != nil {
		t.Fatal(err)
	}
	started, err := g.api.StartProcess(ctx, &agentv1.ProcessRef{ContainerId: "st", ExecId: "ex"})
	if err != nil {
		t.Fatal(err)
	}
	list, err := g.api.Pids(ctx, &agentv1.ContainerRef{ContainerId: "st"})
	if err != nil {
		t.Fatal(err)
	}
	named := map[uint32]string{}
	for _, p := range list.Processes {
		named[p.Pid] = p.ExecId
	}
	if named[started.Pid] != "ex" || len(named) < 2 {
		t.Errorf("exec has pid %d, list %v", started.Pid, list.Processes)
	}
	res, err := g.api.Stats(ctx, &agentv1.ContainerRef{ContainerId: "st"})
	if err != nil {
		t.Fatal(err)
	}
	var m stats.Metrics
	if err := proto.Unmarshal(res.Metrics, &m); err != nil {
		t.Fatal(err)
	}
	if m.GetPids().GetCurrent() < 2 || m.GetPids().GetLimit() != 50 || m.GetMemory().GetUsage() == 0 ||
		m.GetMemory().GetUsageLimit() != uint64(limit) || m.GetCPU().GetUsageUsec() == 0 || m.GetMemory().GetAnon() == 0 || m.GetMemoryEvents() == nil {
		t.Errorf("metrics %v", &m)
	}
	res, err = g.api.Stats(ctx, &agentv1.ContainerRef{})
	if err != nil {
		t.Fatal(err)
	}
	var all stats.Metrics
	if err := proto.Unmarshal(res.Metrics, &all); err != nil {
		t.Fatal(err)
	}
	if all.GetPids().GetCurrent() <= m.GetPids().GetCurrent() || all.GetMemory().GetUsage() <= m.GetMemory().GetUsage() ||
		all.GetCPU().GetUsageUsec() <= m.GetCPU().GetUsageUsec() {
		t.Errorf("metrics of the guest %v, of a container in it %v", &all, &m)
	}
}

func testOutOfMemory(t *testing.T, g *testGuest) {
	ctx, cancel := context.WithCancel(testCtx(t))
	defer cancel()
	events, err := g.api.Events(ctx, &agentv1.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	limit := int64(16 << 20)
	spec := testSpec("oom", "sh", "-c", "head -c 64000000 /dev/zero | tail >/dev/null; sleep 0.2; exit 1")
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	exit, _, _ := g.run(t, "oom", spec)
	if !exit.OomKilled {
		t.Errorf("exit %v", exit)
	}
	ev, err := events.Recv()
	if err != nil || ev.GetOom().GetContainerId() != "oom" {
		t.Errorf("event %v %v", ev, err)
	}
	if exit, _, _ := g.run(t, "fine", testSpec("fine", "true")); exit.OomKilled {
		t.Error("a container that was not killed is said to be")
	}
}

func testOrphans(t *testing.T, g *testGuest) {
	// Processes without a PID namespace: their orphans are the agent's.
	spec := guestPIDsSpec("orphan", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do (sh -c 'sleep 0.0$RANDOM & exit 0' &) ; done; sleep 1; ps -o stat,comm | grep -c '^Z'")
	_, out, _ := g.run(t, "orphan", spec)
	if strings.TrimSpace(out) != "0" {
		t.Errorf("%s zombies", out)
	}
}

func testSharedPIDs(t *testing.T, g *testGuest) {
	ctx := testCtx(t)
	g.sleeper(t, "pod", nil)
	list, err := g.api.Pids(ctx, &agentv1.ContainerRef{ContainerId: "pod"})
	if err != nil || len(list.Processes) != 1 {
		t.Fatalf("%v %v", list, err)
	}
	join := func(s *specs.Spec) {
		for i := range s.Linux.Namespaces {
			if n := &s.Linux.Namespaces[i]; n.Type != "mount" && n.Type != "cgroup" {
				file := map[specs.LinuxNamespaceType]string{"pid": "pid", "ipc": "ipc", "uts": "uts", "network": "net"}[n.Type]
				n.Path = fmt.Sprintf("/proc/%d/ns/%s", list.Processes[0].Pid, file)
			}
		}
		s.Hostname = ""
		s.Linux.Sysctl = nil
		s.Process.Args = []string{"sh", "-c", "sleep 998 & sleep 999 & wait"}
	}
	g.sleeper(t, "member", join)
	if exit, out := g.exec(t, "member", "e", execSpec("sh", "-c", "hostname; ps | grep -c 'sleep 1000'")); exit.Status != 0 || !strings.HasPrefix(out, "ctr-pod\n") {
		t.Errorf("%d %q", exit.Status, out)
	}
	// Killing the init of a container in a shared PID namespace kills the rest of it, and no other's.
	if _, err := g.api.SignalProcess(ctx, &agentv1.SignalProcessRequest{ContainerId: "member", Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if exit, err := g.api.WaitProcess(ctx, &agentv1.ProcessRef{ContainerId: "member"}); err != nil || exit.Status != 137 {
		t.Errorf("%v %v", exit, err)
	}
	g.delete(t, "member")
	if list, err := g.api.Pids(ctx, &agentv1.ContainerRef{ContainerId: "pod"}); err != nil || len(list.Processes) != 1 {
		t.Errorf("%v %v", list, err)
	}
}

// testManyContainers makes containers at once, while orphans end all the time:
// every container's status must reach its owner, and no orphan stay a zombie.
func testManyContainers(t *testing.T, g *testGuest) {
	g.sleeper(t, "storm", func(s *specs.Spec) {
		s.Process.Args = []string{"sh", "-c", "while :; do (sleep 0.02 &); (true &); done"}
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == "pid" })
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: new(int64(20000)), Period: new(uint64(100000))}
	})
	defer g.delete(t, "storm")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			id := fmt.Sprintf("c%d", i)
			for range 2 {
				if status, out := g.shell(t, id, "echo "+id+"; exit 7"); status != 7 || out != id+"\n" {
					t.Errorf("%s: %d %q", id, status, out)
				}
			}
		})
	}
	wg.Wait()
}

func testClock(t *testing.T, g *testGuest) {
	_, out := g.shell(t, "clock", "date +%s")
	var sec int64
	fmt.Sscan(out, &sec)
	if d := time.Since(time.Unix(sec, 0)); d < -2*time.Second || d > 10*time.Second {
		t.Errorf("the guest's clock is off by %v", d)
	}
}

func testNothingLeft(t *testing.T, g *testGuest) {
	spec := guestPIDsSpec("left", "sh", "-c", `ls /state; find /cg -mindepth 1 -type d | grep -v left; grep -c ctr/rootfs /proc/1/mountinfo`)
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/state", Type: "bind", Source: stateDir, Options: []string{"bind", "ro"}},
		specs.Mount{Destination: "/cg", Type: "bind", Source: cgroupRoot, Options: []string{"bind", "ro"}},
	)
	// It is libcontainer that has a directory for each of its containers.
	leaveToLibcontainer(spec)
	_, out, errs := g.run(t, "left", spec)
	if out != "left\n/cg/hyper\n0\n" {
		t.Errorf("left behind: %q %q", out, errs)
	}
}

// testAgentsSlack looks at when the agent's own threads are woken: see reexec/slack.c.
func testAgentsSlack(t *testing.T, g *testGuest) {
	// These guests are emulated.
	if _, out, errs := g.run(t, "slack", rootSpec("slack", "cat", "/proc/1/timerslack_ns")); out != "10000000\n" {
		t.Errorf("got %q %q", out, errs)
	}
}

// testDescriptors checks that what containers and execs took of the agent comes
// back: its open files, and but for a few its threads.
func testDescriptors(t *testing.T, g *testGuest) {
	count := func(id string) (files, threads int) {
		t.Helper()
		spec := rootSpec(id, "sh", "-c", "ls /proc/1/fd | wc -l; ls /proc/1/task | wc -l")
		_, out, errs := g.run(t, id, spec)
		if n, err := fmt.Sscan(out, &files, &threads); n != 2 || files == 0 {
			t.Fatalf("%q %q %v", out, errs, err)
		}
		return files, threads
	}
	// The usher stays, if an earlier test has not left one.
	g.withUsher(t, "first")
	g.delete(t, "first")
	before, threadsBefore := count("fd1")
	g.sleeper(t, "fds", nil)
	for i := range 5 {
		g.shell(t, "fd", "true")
		g.exec(t, "fds", fmt.Sprint("e", i), execSpec("true"))
		s := g.open(t, "iot")
		if err := g.create(t, "tty", testSpec("tty", "true"), s); err != nil {
			t.Fatal(err)
		}
		g.delete(t, "tty")
	}
	g.delete(t, "fds")
	after, threadsAfter := count("fd2")
	if after > before {
		t.Errorf("%d open files, %d before", after, before)
	}
	t.Logf("%d open files; %d threads, %d before", after, threadsAfter, threadsBefore)
	if threadsAfter > threadsBefore+maxForks {
		t.Errorf("%d threads, %d before", threadsAfter, threadsBefore)
	}
}

// testNewSession has the host come back: the containers are still there.
func testNewSession(t *testing.T, g *testGuest) {
	g.sleeper(t, "stay", nil)
	s := g.open(t, "io")
	if err := g.create(t, "cat", testSpec("cat", "cat"), s); err != nil {
		t.Fatal(err)
	}
	if _, err := g.api.StartProcess(testCtx(t), &agentv1.ProcessRef{ContainerId: "cat"}); err != nil {
		t.Fatal(err)
	}
	g.reconnect(t)
	// Its input ended with the session, and so does it.
	if exit, err := g.api.WaitProcess(testCtx(t), &agentv1.ProcessRef{ContainerId: "cat"}); err != nil || exit.Status != 0 {
		t.Errorf("%v %v", exit, err)
	}
	if exit, out := g.exec(t, "stay", "e", execSpec("echo", "still here")); exit.Status != 0 || out != "still here\n" {
		t.Errorf("%v %q", exit, out)
	}
}
