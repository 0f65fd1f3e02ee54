package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/hyperhq/hyper/test/harness"
)

// testStates follows a task from its creation to its end.
func testStates(t *testing.T, c *harness.Cell) {
	task := c.Container(t, harness.Args("sleep", "1000")).Create(t, harness.IO{})
	status := func(want string) {
		t.Helper()
		if state, err := task.State(t); err != nil || state.Status.String() != want {
			t.Errorf("its state is %v, %v; want %s", state, err, want)
		}
	}
	status("CREATED")
	if err := unix.Kill(int(task.PID), 0); task.PID == 0 || err != nil {
		t.Errorf("its pid %d is no live process of the host: %v", task.PID, err)
	}
	task.Start(t)
	status("RUNNING")
	if _, err := task.TryDelete(t); err == nil || c.Runtime == harness.RuntimeHyper && !errdefs.IsFailedPrecondition(err) {
		t.Errorf("deleting a running task: %v", err)
	}
	status("RUNNING")
	if err := task.TryStart(t); err == nil {
		t.Error("it was started twice")
	}
	if err := task.Kill(t, 9, false); err != nil {
		t.Errorf("killing it: %v", err)
	}
	exit := task.Wait(t, harness.Patience)
	status("STOPPED")
	if again := task.Wait(t, harness.Patience); again != exit || exit.Status != 137 {
		t.Errorf("waiting twice: %v and %v", exit, again)
	}
	if state, err := task.State(t); err != nil || state.ExitStatus != 137 || !state.ExitedAt.AsTime().Equal(exit.At) {
		t.Errorf("its state is %v, %v", state, err)
	}
	if err := task.Kill(t, 9, false); !errdefs.IsNotFound(err) {
		t.Errorf("killing a process that is gone: %v", err)
	}
	task.Delete(t)
	if _, err := task.State(t); !errdefs.IsNotFound(err) {
		t.Errorf("after its deletion: %v", err)
	}
	if _, err := task.TryDelete(t); !errdefs.IsNotFound(err) {
		t.Errorf("deleting it twice: %v", err)
	}
}

// testDuplicate creates a task twice.
func testDuplicate(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	if _, err := task.Container.TryCreate(t, harness.IO{None: true}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("got %v", err)
	}
	if r := task.Do(t, "echo", "unharmed"); r.Stdout != "unharmed\n" {
		t.Errorf("the first: %+v", r)
	}
}

// testSignals delivers signals to one process, and to all.
func testSignals(t *testing.T, c *harness.Cell) {
	script := `trap 'echo got USR1' USR1; trap 'echo got TERM; exit 9' TERM; echo ready; while :; do sleep 0.05; done`
	task := c.Container(t, harness.Sh(script)).Create(t, harness.IO{})
	task.Start(t)
	task.Expect(t, "ready\n")
	other := task.Exec(t, harness.Command{Args: []string{"sh", "-c", strings.ReplaceAll(script, "got", "other got")}}, harness.IO{})
	other.Start(t)
	other.Expect(t, "ready\n")
	for _, step := range []struct {
		what   string
		signal unix.Signal
		all    bool
		to     *harness.Task
		seen   map[*harness.Task]string
	}{
		{"to the init", unix.SIGUSR1, false, task, map[*harness.Task]string{task: "got USR1\n"}},
		{"to the exec", unix.SIGUSR1, false, other, map[*harness.Task]string{other: "other got USR1\n"}},
		{"an end of the exec", unix.SIGTERM, false, other, map[*harness.Task]string{other: "other got TERM\n"}},
	} {
		if err := step.to.Kill(t, uint32(step.signal), step.all); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		for p, text := range step.seen {
			p.Expect(t, text)
		}
	}
	if n := strings.Count(task.Output(), "USR1"); n != 1 {
		t.Errorf("the init got %d signals", n)
	}
	if r := other.Finish(t); r.Status != 9 {
		t.Errorf("the exec: %+v", r)
	}
	if err := task.Kill(t, uint32(unix.SIGTERM), false); err != nil {
		t.Fatal(err)
	}
	if r := task.Finish(t); r.Status != 9 {
		t.Errorf("the init: %+v", r)
	}
}

// testKillAll ends every process of a container, the unknown ones too.
func testKillAll(t *testing.T, c *harness.Cell) {
	task := c.Container(t, harness.Sh("sleep 1000 & sleep 1000 & echo ready; wait")).Create(t, harness.IO{})
	task.Start(t)
	task.Expect(t, "ready\n")
	p := task.Exec(t, harness.Command{Args: []string{"sleep", "1000"}}, harness.IO{})
	p.Start(t)
	if err := task.Kill(t, 9, true); err != nil {
		t.Fatal(err)
	}
	if exit := p.Wait(t, harness.Patience); exit.Status != 137 {
		t.Errorf("the exec exited %d", exit.Status)
	}
	if exit := task.Wait(t, harness.Patience); exit.Status != 137 {
		t.Errorf("the init exited %d", exit.Status)
	}
}

// testInitEnds sees the execs die with the init.
func testInitEnds(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	p := task.Exec(t, harness.Command{Args: []string{"sleep", "1000"}}, harness.IO{})
	p.Start(t)
	if err := task.Kill(t, 9, false); err != nil {
		t.Fatal(err)
	}
	if exit := p.Wait(t, harness.Patience); exit.Status != 137 {
		t.Errorf("the exec exited %d", exit.Status)
	}
	if exit := task.Wait(t, harness.Patience); exit.Status != 137 {
		t.Errorf("the init exited %d", exit.Status)
	}
}

// testPause stops a counter, and lets it go on.
func testPause(t *testing.T, c *harness.Cell) {
	task := c.Container(t, harness.Args("probe", "trickle", "100000", "20")).Create(t, harness.IO{})
	task.Start(t)
	task.Expect(t, "\n9\n")
	if err := task.Pause(t); err != nil {
		t.Fatal(err)
	}
	if state, err := task.State(t); err != nil || state.Status.String() != "PAUSED" {
		t.Errorf("its state is %v, %v", state, err)
	}
	// What was on its way arrives, on a busy host later, and then nothing: it would count
	// on fifty times in a second.
	var before int
	harness.Eventually(t, harness.Soon, func() error {
		before = strings.Count(task.Output(), "\n")
		time.Sleep(time.Second)
		if after := strings.Count(task.Output(), "\n"); after != before {
			return fmt.Errorf("it counted from %d to %d while it was paused", before, after)
		}
		return nil
	})
	p, err := task.TryExec(t, harness.Command{Args: []string{"true"}}, harness.IO{})
	if err == nil {
		err = p.TryStart(t)
	}
	if err == nil {
		t.Error("a process was started in a paused container")
	}
	if err := task.Resume(t); err != nil {
		t.Fatal(err)
	}
	task.Expect(t, fmt.Sprintf("\n%d\n", before+10))
	if state, err := task.State(t); err != nil || state.Status.String() != "RUNNING" {
		t.Errorf("its state is %v, %v", state, err)
	}
	if err := task.Kill(t, 9, false); err != nil {
		t.Error(err)
	}
	task.Wait(t, harness.Patience)
}

// ownCgroup shows a container its own cgroup.
func ownCgroup(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	harness.Mount("cgroup", "cgroup", "/sys/fs/cgroup", "ro", "nosuid", "noexec", "nodev")(s)
}

// testUpdate changes limits, and reads them where the guest's kernel has them.
func testUpdate(t *testing.T, c *harness.Cell) {
	mib := func(n int64) *int64 { n <<= 20; return &n }
	quota, period, pids := int64(50000), uint64(100000), int64(50)
	task := running(t, c, ownCgroup, func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: mib(64)}
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
		s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	})
	limits := "cd /sys/fs/cgroup && cat memory.max cpu.max pids.max"
	if r := task.Shell(t, limits); r.Stdout != "67108864\n50000 100000\n50\n" {
		t.Errorf("as created: %+v", r)
	}
	quota, pids = 25000, 40
	err := task.Update(t, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: mib(96)},
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: &period},
		Pids:   &specs.LinuxPids{Limit: &pids},
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := task.Shell(t, limits); r.Stdout != "100663296\n25000 100000\n40\n" {
		t.Errorf("after the update: %+v", r)
	}
}

// testOOM allocates more than the container may have.
func testOOM(t *testing.T, c *harness.Cell) {
	limit := int64(32 << 20)
	container := c.Container(t, harness.Args("probe", "allocate", "100"), func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	})
	events := container.Watch(t)
	if r := container.Run(t, harness.IO{}); r.Status != 137 {
		t.Errorf("got %+v", r)
	}
	events.Expect(t, "oom "+container.ID, harness.Soon)
}

// testPids lists processes, and knows which are execs.
func testPids(t *testing.T, c *harness.Cell) {
	task := c.Container(t, harness.Sh("sleep 1000 & echo ready; wait")).Create(t, harness.IO{})
	task.Start(t)
	task.Expect(t, "ready\n")
	p := task.Exec(t, harness.Command{ID: "known", Args: []string{"sh", "-c", "echo ready; sleep 1000; true"}}, harness.IO{})
	p.Start(t)
	p.Expect(t, "ready\n")
	var known int
	harness.Eventually(t, harness.Soon, func() error {
		pids, err := task.Pids(t)
		if err != nil {
			return err
		}
		if len(pids) != 4 {
			return fmt.Errorf("%d processes: %v", len(pids), pids)
		}
		known = 0
		for _, info := range pids {
			var details options.ProcessDetails
			if info == nil {
				continue
			}
			if err := proto.Unmarshal(info.Value, &details); err != nil || !strings.HasSuffix(info.TypeUrl, "ProcessDetails") {
				return fmt.Errorf("what is known about it is %v, %w", info, err)
			}
			if details.ExecID == "known" {
				known++
			}
		}
		return nil
	})
	if known != 1 {
		t.Errorf("%d processes are the exec", known)
	}
}

// testEvents compares all events of a task's life with what was done.
func testEvents(t *testing.T, c *harness.Cell) {
	container := c.Container(t, harness.Args("sleep", "1000"))
	events := container.Watch(t)
	task := container.Create(t, harness.IO{})
	task.Start(t)
	p := task.Exec(t, harness.Command{ID: "x", Args: []string{"sh", "-c", "exit 3"}}, harness.IO{})
	p.Start(t)
	p.Wait(t, harness.Patience)
	p.Delete(t)
	if err := task.Pause(t); err != nil {
		t.Fatal(err)
	}
	if err := task.Resume(t); err != nil {
		t.Fatal(err)
	}
	if err := task.Kill(t, 9, false); err != nil {
		t.Fatal(err)
	}
	task.Wait(t, harness.Patience)
	task.Delete(t)
	id := container.ID
	events.Expect(t, "delete "+id, harness.Soon)
	var got []string
	for _, event := range events.Seen() {
		got = append(got, event.String())
		switch event.String() {
		case "exit x":
			if event.Status != 3 {
				t.Errorf("the exec's exit says %d", event.Status)
			}
		case "exit " + id:
			if event.Status != 137 || time.Since(event.Exited).Abs() > time.Minute {
				t.Errorf("the task's exit says %d at %v", event.Status, event.Exited)
			}
		}
	}
	want := []string{"create " + id, "start " + id, "exec-added x", "exec-started x", "exit x", "paused " + id, "resumed " + id, "exit " + id, "delete " + id}
	if c.Runtime == harness.RuntimeRunc {
		// runc's shim sends the exit and the deletion on two ways.
		slices.Sort(got)
		slices.Sort(want)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// testEventsOfFastExits checks the order where it is tightest.
func testEventsOfFastExits(t *testing.T, c *harness.Cell) {
	container := c.Container(t, harness.Args("true"))
	events := container.Watch(t)
	container.Run(t, harness.IO{})
	id := container.ID
	events.Expect(t, "delete "+id, harness.Soon)
	var got []string
	for _, event := range events.Seen() {
		got = append(got, event.String())
	}
	if want := []string{"create " + id, "start " + id, "exit " + id, "delete " + id}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// testWaiters has several wait for one end, from before it was started.
func testWaiters(t *testing.T, c *harness.Cell) {
	task := c.Container(t, harness.Sh("sleep 1; exit 6")).Create(t, harness.IO{})
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if exit := task.Wait(t, harness.Patience); exit.Status != 6 {
				t.Errorf("it exited %d", exit.Status)
			}
		})
	}
	task.Start(t)
	all.Wait()
}

func testCheckpoint(t *testing.T, c *harness.Cell) {
	if err := running(t, c).Checkpoint(t); !errdefs.IsNotImplemented(err) {
		t.Errorf("got %v", err)
	}
}

// testPod has two containers in one virtual machine.
func testPod(t *testing.T, c *harness.Cell) {
	group := func(kind, id string) harness.Option {
		return func(s *specs.Spec) {
			harness.Annotation("io.kubernetes.cri.container-type", kind)(s)
			harness.Annotation("io.kubernetes.cri.sandbox-id", id)(s)
		}
	}
	id, err := c.NewID()
	if err != nil {
		t.Fatal(err)
	}
	first := c.ContainerWithID(t, id, harness.Args("sleep", "1000"), group("sandbox", id)).Create(t, harness.IO{})
	first.Start(t)
	second := c.Container(t, harness.Args("sleep", "1000"), group("container", id)).Create(t, harness.IO{})
	second.Start(t)
	if n := len(c.Program("qemu-system")); n != 1 {
		t.Errorf("a pod of two containers has %d virtual machines", n)
	}
	const bootID = "/proc/sys/kernel/random/boot_id"
	if a, b := first.Do(t, "cat", bootID), second.Do(t, "cat", bootID); a.Stdout != b.Stdout || a.Status != 0 {
		t.Errorf("they run in %+v and %+v", a, b)
	}
	if r := first.Shell(t, "echo x > /root/mine"); r.Status != 0 {
		t.Errorf("got %+v", r)
	}
	if r := second.Shell(t, "ls /root/mine"); r.Status == 0 {
		t.Error("they share a root filesystem")
	}
	if err := second.Kill(t, 9, false); err != nil {
		t.Fatal(err)
	}
	second.Wait(t, harness.Patience)
	second.Delete(t)
	if r := first.Do(t, "echo", "still here"); r.Stdout != "still here\n" {
		t.Errorf("after the second is gone: %+v", r)
	}
}

// testUnprivileged reads what the kernel says of the running QEMU.
func testUnprivileged(t *testing.T, c *harness.Cell) {
	running(t, c)
	machines := c.Program("qemu-system")
	if len(machines) != 1 {
		t.Fatalf("there are %d", len(machines))
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", machines[0].PID))
	if err != nil {
		t.Fatal(err)
	}
	status := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		status[name] = strings.Join(strings.Fields(value), " ")
	}
	for name, want := range map[string]string{
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapAmb": "0000000000000000",
		"NoNewPrivs": "1", "Seccomp": "2", "Groups": "",
	} {
		if status[name] != want {
			t.Errorf("%s is %q, want %q", name, status[name], want)
		}
	}
	for _, name := range []string{"Uid", "Gid"} {
		ids := strings.Fields(status[name])
		for _, id := range ids {
			if n, err := strconv.Atoi(id); err != nil || n < 1<<16 || id != ids[0] {
				t.Errorf("%s is %s", name, status[name])
			}
		}
	}
	for _, ns := range []string{"net", "ipc", "uts", "mnt"} {
		own, _ := os.Readlink("/proc/self/ns/" + ns)
		if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", machines[0].PID, ns)); err != nil || its == own {
			t.Errorf("its %s namespace is the host's (%s, %v)", ns, its, err)
		}
	}
	checkRootOf(t, machines[0].PID)
}

// checkRootOf looks for the host's files where a tool that takes a task's process for
// one of the container does.
func checkRootOf(t *testing.T, pid int) {
	t.Helper()
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.WriteFile(canary, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	root := fmt.Sprintf("/proc/%d/root", pid)
	for _, path := range []string{canary, "/etc/passwd", "/etc/shadow", "/usr/bin", "/usr/lib", "/proc/self", "/run/hyper", "/dev/kvm"} {
		if _, err := os.Lstat(root + path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("QEMU has %s: %v", path, err)
		}
	}
	for _, path := range []string{canary, "/written", "/usr/written", "/etc/written"} {
		if err := os.WriteFile(root+path, nil, 0o644); !errors.Is(err, unix.EROFS) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("writing to QEMU's %s: %v", path, err)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if n := strings.Count(string(mounts), "\n"); err != nil || n > 4 {
		t.Errorf("QEMU has %d mounts (%v):\n%s", n, err, mounts)
	}
}
