package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// newSandbox creates a sandbox by containerd's sandbox API.
func newSandbox(t *testing.T, c *harness.Cell) *harness.Sandbox {
	t.Helper()
	if strings.HasPrefix(c.Version, "1.") {
		t.Skipf("containerd %s has no sandbox controller for shims", c.Version)
	}
	return c.Sandbox(t)
}

// checkState compares the sandbox's state.
func checkState(t *testing.T, s *harness.Sandbox, want string) {
	t.Helper()
	if state := s.Status(t); state.State != want {
		t.Errorf("its state is %v, want %s", state, want)
	}
}

// checkExit waits for the sandbox's end.
func checkExit(t *testing.T, answer <-chan harness.SandboxExit, status uint32) {
	t.Helper()
	exit := <-answer // the wait has a limit
	if exit.Err != nil || exit.Status != status || time.Since(exit.At).Abs() > harness.Allow(10*time.Second) {
		t.Errorf("it exited %d at %v, %v; want %d", exit.Status, exit.At, exit.Err, status)
	}
}

// checkGone shuts the sandbox down and checks that it has no process any more.
func checkGone(t *testing.T, c *harness.Cell, s *harness.Sandbox) {
	t.Helper()
	if err := s.Shutdown(t); err != nil {
		t.Errorf("shutting it down: %v", err)
	}
	if left := c.Below(); len(left) > 0 {
		t.Errorf("after its shutdown there are %v", left)
	}
}

// testSandboxLife leads a pod without a pause container through its life.
func testSandboxLife(t *testing.T, c *harness.Cell) {
	s := newSandbox(t, c)
	checkState(t, s, "SANDBOX_NOTREADY")
	if n := len(c.Program("qemu-system")); n != 0 {
		t.Errorf("it has %d virtual machines before its start", n)
	}
	wait := s.Waiting(t, 2*harness.Patience)
	pid := s.Start(t)
	if err := unix.Kill(int(pid), 0); pid == 0 || err != nil {
		t.Errorf("its pid %d is no live process of the host: %v", pid, err)
	}
	state := s.Status(t)
	if state.State != "SANDBOX_READY" || state.Pid != pid || time.Since(state.CreatedAt.AsTime()).Abs() > harness.Slowly(time.Minute) {
		t.Errorf("its state is %v", state)
	}
	if state.Info["kernel"] == "" || state.Info["agent"] == "" || state.Info["memory_mib"] == "" {
		t.Errorf("its state says %v", state.Info)
	}
	if again, err := s.TryStart(t); err != nil || again != pid {
		t.Errorf("starting it twice: %d, %v", again, err)
	}
	inSandbox(t, c, s)
	checkState(t, s, "SANDBOX_READY") // though its containers are gone
	if err := s.Stop(t); err != nil {
		t.Errorf("stopping it: %v", err)
	}
	checkExit(t, wait, 0)
	if err := s.Stop(t); err != nil {
		t.Errorf("stopping it twice: %v", err)
	}
	if state := s.Status(t); state.State != "SANDBOX_NOTREADY" || time.Since(state.ExitedAt.AsTime()) > harness.Slowly(time.Minute) {
		t.Errorf("its state is %v", state)
	}
	if _, err := s.Container(t).TryCreate(t, harness.IO{None: true}); err == nil {
		t.Error("a container was created in a stopped sandbox")
	}
	checkGone(t, c, s)
}

// inSandbox runs two containers in a sandbox, one after the other is gone.
func inSandbox(t *testing.T, c *harness.Cell, s *harness.Sandbox) {
	t.Helper()
	const bootID = "/proc/sys/kernel/random/boot_id"
	first := s.Container(t, harness.Args("cat", bootID)).Run(t, harness.IO{})
	checkSandboxMetrics(t, s)
	second := s.Container(t, harness.Sh("cat "+bootID+"; exit 9")).Run(t, harness.IO{})
	if first.Status != 0 || first.Stdout == "" || second.Status != 9 || second.Stdout != first.Stdout {
		t.Errorf("they are %+v and %+v", first, second)
	}
	if n := len(c.Program("qemu-system")); n != 1 {
		t.Errorf("the sandbox has %d virtual machines", n)
	}
}

func checkSandboxMetrics(t *testing.T, s *harness.Sandbox) {
	t.Helper()
	metric, err := s.Metrics(t)
	if err != nil {
		t.Fatalf("its metrics: %v", err)
	}
	if metric.ID != s.ID || !strings.HasSuffix(metric.Data.GetTypeUrl(), "io.containerd.cgroups.v2.Metrics") {
		t.Errorf("its metrics are %v", metric)
	}
	var m stats.Metrics
	if err := proto.Unmarshal(metric.Data.GetValue(), &m); err != nil {
		t.Fatal(err)
	}
	if m.GetMemory().GetUsage() < 1<<20 || m.GetCPU().GetUsageUsec() == 0 || m.GetPids().GetCurrent() == 0 {
		t.Errorf("its metrics are %v", &m)
	}
}

// testSandboxDies kills the machine under a sandbox and its container.
func testSandboxDies(t *testing.T, c *harness.Cell) {
	for _, program := range []string{"qemu-system", "virtiofsd"} {
		t.Run(program, func(t *testing.T) {
			c.CheckLeaks(t)
			s := newSandbox(t, c)
			s.Start(t)
			task := s.Container(t, harness.Args("sleep", "100000")).Create(t, harness.IO{})
			task.Start(t)
			wait := s.Waiting(t, harness.Patience)
			begin := time.Now()
			killProgram(t, c, program)
			checkExit(t, wait, 137)
			if took := time.Since(begin); took > harness.Allow(deathLimit) {
				t.Errorf("its end was reported after %v", took)
			}
			if exit := task.Wait(t, harness.Allow(deathLimit)); exit.Status != 137 {
				t.Errorf("its container exited %d", exit.Status)
			}
			checkState(t, s, "SANDBOX_NOTREADY")
			task.Delete(t)
			checkExit(t, s.Waiting(t, harness.Allow(deathLimit)), 137) // the shim is there to ask
			if err := s.Stop(t); err != nil {
				t.Errorf("stopping it: %v", err)
			}
			checkGone(t, c, s)
		})
	}
}

// testSandboxDoesNotBoot has a guest that never answers.
func testSandboxDoesNotBoot(t *testing.T, c *harness.Cell) {
	kernel, _ := c.Guest()
	dir := hostDir(t, c, map[string]string{"garbage": strings.Repeat("this is no image\n", 1000)})
	garbage := filepath.Join(dir, "garbage")
	configure(t, c, "[guest]\nkernel = \""+kernel+"\"\nimage = \""+garbage+"\"\n")
	s := newSandbox(t, c)
	_, err := s.TryStart(t)
	if err == nil || !strings.Contains(err.Error(), garbage) {
		t.Errorf("starting it: %v", err)
	}
	// containerd has shut it down.
	harness.Eventually(t, harness.Soon, func() error { return noProcess(c) })
}

// noProcess is an error while the cell has a sandbox.
func noProcess(c *harness.Cell) error {
	if left := c.Below(); len(left) > 0 {
		return &leftError{left}
	}
	return nil
}

type leftError struct{ left []harness.Process }

func (e *leftError) Error() string {
	var list []string
	for _, p := range e.left {
		list = append(list, p.String())
	}
	return "there are " + strings.Join(list, ", ")
}

// testSandboxRemoved takes a sandbox away from under its container.
func testSandboxRemoved(t *testing.T, c *harness.Cell) {
	s := newSandbox(t, c)
	s.Start(t)
	task := s.Container(t, harness.Args("sleep", "100000")).Create(t, harness.IO{})
	task.Start(t)
	if err := s.Stop(t); err != nil {
		t.Fatal(err)
	}
	if exit := task.Wait(t, harness.Allow(deathLimit)); exit.Status != 137 {
		t.Errorf("its container exited %d", exit.Status)
	}
	checkGone(t, c, s)
	checkCleaned(t, task)
}

// testSandboxRestart ends containerd under a sandbox, which must not notice.
func testSandboxRestart(t *testing.T, c *harness.Cell) {
	s := newSandbox(t, c)
	pid := s.Start(t)
	task := s.Container(t, harness.Args("sleep", "100000")).Create(t, harness.IO{})
	task.Start(t)
	restart(t, c, unix.SIGKILL, func() {})
	if state := s.Status(t); state.State != "SANDBOX_READY" || state.Pid != pid {
		t.Fatalf("after the restart its state is %v", state)
	}
	if r := task.Do(t, "echo", "again"); r.Stdout != "again\n" {
		t.Errorf("an exec: %+v", r)
	}
	if err := task.Kill(t, 9, false); err != nil {
		t.Error(err)
	}
	if r := task.Finish(t); r.Status != 137 {
		t.Errorf("its container exited %d", r.Status)
	}
	checkState(t, s, "SANDBOX_READY")
	if err := s.Stop(t); err != nil {
		t.Errorf("stopping it: %v", err)
	}
	checkGone(t, c, s)
}

// testSandboxCtr runs a sandbox and a container in it by ctr's commands, in the
// size that its configuration asks for.
func testSandboxCtr(t *testing.T, c *harness.Cell) {
	if strings.HasPrefix(c.Version, "1.") {
		t.Skipf("ctr %s has no sandboxes that are of a shim", c.Version)
	}
	withoutTemplates(t, c)
	dir := hostDir(t, c, map[string]string{"pod.json": `{"ociVersion": "1.1.0", "linux": {"resources": {"memory": {"limit": 402653184}}}}`})
	pod, err := c.NewID()
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.NewID()
	if err != nil {
		t.Fatal(err)
	}
	run := func(want string, args ...string) {
		t.Helper()
		stdout, stderr, err := ctr(t, c, "", args...)
		if err != nil || stdout != want {
			t.Errorf("ctr %q: %q, %q, %v; want %q", args, stdout, stderr, err, want)
		}
	}
	run(pod+"\n", "sandbox", "run", "--runtime", c.Runtime, filepath.Join(dir, "pod.json"), pod)
	run("large\n", "run", "--rm", "--runtime", c.Runtime, "--sandbox", pod, image.Name, id,
		"sh", "-c", `[ $(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) -gt 400000 ] && echo large`)
	run("", "sandbox", "rm", pod)
	if err := noProcess(c); err != nil {
		t.Error(err)
	}
}
