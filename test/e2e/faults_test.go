package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
)

// deathLimit is how soon the end of a virtual machine is to be reported.
const deathLimit = time.Second

// moment is a state of a container in which something dies.
type moment struct {
	name string
	// reach brings a created task there, and returns the exec that runs, if one
	// does.
	reach func(t *testing.T, task *harness.Task) *harness.Task
}

// started starts a task, and returns when it runs.
func started(t *testing.T, task *harness.Task) *harness.Task {
	t.Helper()
	task.Start(t)
	task.Expect(t, "ready\n")
	return nil
}

func moments() []moment {
	return []moment{
		{"created", func(*testing.T, *harness.Task) *harness.Task { return nil }},
		{"running", started},
		{"exec running", func(t *testing.T, task *harness.Task) *harness.Task {
			started(t, task)
			p := task.Exec(t, harness.Command{Args: []string{"sh", "-c", "echo ready; sleep 1000; true"}}, harness.IO{})
			p.Start(t)
			p.Expect(t, "ready\n")
			return p
		}},
		{"paused", func(t *testing.T, task *harness.Task) *harness.Task {
			started(t, task)
			if err := task.Pause(t); err != nil {
				t.Fatal(err)
			}
			return nil
		}},
		{"stopping", func(t *testing.T, task *harness.Task) *harness.Task {
			started(t, task)
			if err := task.Kill(t, uint32(unix.SIGTERM), false); err != nil {
				t.Fatal(err)
			}
			task.Expect(t, "stopping\n")
			return nil
		}},
	}
}

// stubborn is an init that takes its time to stop.
func stubborn() harness.Option {
	return harness.Sh(`trap 'echo stopping; sleep 1000' TERM; echo ready; while :; do sleep 0.05; done`)
}

// killProgram kills the process of the cell's only sandbox that has a name.
func killProgram(t *testing.T, c *harness.Cell, name string) {
	t.Helper()
	found := c.Program(name)
	if len(found) == 0 {
		t.Fatalf("there is no %s", name)
	}
	for _, p := range found {
		// The end of the first may be that of the others.
		if err := unix.Kill(p.PID, unix.SIGKILL); err != nil && err != unix.ESRCH {
			t.Fatalf("killing %s: %v", p, err)
		}
	}
}

// testKilled kills the processes of a sandbox, one in each state of a container.
func testKilled(t *testing.T, c *harness.Cell) {
	for _, program := range []string{"qemu-system", "virtiofsd", "containerd-shim-hyper"} {
		for _, m := range moments() {
			t.Run(program+" "+m.name, func(t *testing.T) {
				c.CheckLeaks(t)
				if program == "virtiofsd" {
					rootfsBy(t, c, "share") // or there may be none
				}
				checkKilled(t, c, program, m)
			})
		}
	}
	if r := c.Run(t, harness.Args("echo", "good")); r.Stdout != "good\n" {
		t.Errorf("a good run after all: %+v", r)
	}
}

// checkKilled kills a process of a sandbox at a moment, and checks that the container's
// end is reported soon, and to everybody.
func checkKilled(t *testing.T, c *harness.Cell, program string, m moment) {
	t.Helper()
	container := c.Container(t, stubborn())
	events := container.Watch(t)
	task := container.Create(t, harness.IO{})
	exec := m.reach(t, task)
	killed := time.Now()
	killProgram(t, c, program)
	event := events.Expect(t, "exit "+container.ID, harness.Soon)
	if event.Status != 137 {
		t.Errorf("it exited %d", event.Status)
	}
	if program == "containerd-shim-hyper" {
		// It is containerd that reports this end, after its clean-up.
		checkCleaned(t, task)
		return
	}
	if took := event.Seen.Sub(killed); took > harness.Allow(deathLimit) {
		t.Errorf("its end was reported after %v", took)
	}
	if exec != nil {
		events.Expect(t, "exit "+exec.ExecID, harness.Soon)
		if exit := exec.Wait(t, harness.Soon); exit.Status != 137 {
			t.Errorf("the exec exited %d", exit.Status)
		}
	}
	if exit := task.Wait(t, harness.Soon); exit.Status != 137 {
		t.Errorf("waiting says it exited %d", exit.Status)
	}
	if state, err := task.State(t); err != nil || state.Status.String() != "STOPPED" {
		t.Errorf("its state is %v, %v", state, err)
	}
	if err := task.Kill(t, 9, true); !errdefs.IsNotFound(err) {
		t.Errorf("killing it: %v", err)
	}
	task.Delete(t)
}

// killLimit is how soon a guest that does not answer is to be ended.
const killLimit = 40 * time.Second

// testHungGuest kills a container whose machine does nothing any more.
func testHungGuest(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	for _, machine := range c.Program("qemu-system") {
		if err := unix.Kill(machine.PID, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	if err := task.Kill(t, uint32(unix.SIGKILL), false); err != nil {
		t.Fatal(err)
	}
	if r := task.Finish(t); r.Status != 137 {
		t.Errorf("it exited %d", r.Status)
	}
	if took := time.Since(begin); took > harness.Allow(killLimit) {
		t.Errorf("it was gone after %v", took)
	}
}

// testGuestPanics has the guest's kernel die, as a fault of it or of the host's memory
// would: the end is reported soon, and the log says what the kernel died of.
func testGuestPanics(t *testing.T, c *harness.Cell) {
	limit := int64(32 << 20)
	container := c.Container(t, harness.Sh("echo 2 >/proc/sys/vm/panic_on_oom && exec probe allocate 100"), func(s *specs.Spec) {
		s.Linux.ReadonlyPaths = nil
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	})
	logged := c.LogSize()
	events := container.Watch(t)
	if r := container.Run(t, harness.IO{}); r.Status != 137 {
		t.Errorf("got %+v", r)
	}
	events.Expect(t, "exit "+container.ID, harness.Soon)
	for _, want := range []string{"the virtual machine ended", "Kernel panic - not syncing"} {
		if log := c.LogSince(logged); !strings.Contains(log, want) {
			t.Errorf("the log does not have %q:\n%s", want, log)
		}
	}
}

// testKilledAtOnce kills a container whose machine was killed a moment before: there is
// none any more, and it can be deleted.
func testKilledAtOnce(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	killProgram(t, c, "qemu-system")
	if err := task.Kill(t, 9, true); err != nil && !errdefs.IsNotFound(err) {
		t.Errorf("killing it: %v", err)
	}
	if exit := task.Wait(t, harness.Soon); exit.Status != 137 {
		t.Errorf("it exited %d", exit.Status)
	}
	task.Delete(t)
}

// checkCleaned checks that a task whose shim is gone is gone, or can be deleted.
func checkCleaned(t *testing.T, task *harness.Task) {
	t.Helper()
	harness.Eventually(t, harness.Soon, func() error {
		if _, err := task.TryDelete(t); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("deleting the task after its shim was killed: %w", err)
		}
		if _, err := task.State(t); !errdefs.IsNotFound(err) {
			return fmt.Errorf("the task is still known: %w", err)
		}
		return nil
	})
}

// restart ends containerd by a signal and starts it again; between, it runs what
// it is given.
func restart(t *testing.T, c *harness.Cell, signal unix.Signal, between func()) {
	t.Helper()
	if err := c.StopContainerd(signal); err != nil {
		t.Fatal(err)
	}
	between()
	if err := c.StartContainerd(t.Context()); err != nil {
		t.Fatalf("starting containerd again: %v", err)
	}
}

// testRestart ends containerd under a container, which must not notice.
func testRestart(t *testing.T, c *harness.Cell) {
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		t.Run(unix.SignalName(signal), func(t *testing.T) {
			c.CheckLeaks(t)
			task := c.Container(t, harness.Args("probe", "trickle", "100000", "20")).Create(t, harness.IO{})
			task.Start(t)
			task.Expect(t, "\n5\n")
			before := task.PID
			restart(t, c, signal, func() {})
			state, err := task.State(t)
			if err != nil || state.Status.String() != "RUNNING" || state.Pid != before {
				t.Fatalf("after the restart its state is %v, %v", state, err)
			}
			// Its output goes on, from the same process.
			task.Expect(t, "\n100\n")
			if r := task.Do(t, "echo", "again"); r.Stdout != "again\n" {
				t.Errorf("an exec: %+v", r)
			}
			if err := task.Kill(t, 9, false); err != nil {
				t.Error(err)
			}
			if r := task.Finish(t); r.Status != 137 {
				t.Errorf("it exited %d", r.Status)
			}
		})
	}
}

// testKilledWhileDown kills the processes of a sandbox while containerd is down.
func testKilledWhileDown(t *testing.T, c *harness.Cell) {
	for _, program := range []string{"qemu-system", "virtiofsd", "containerd-shim-hyper"} {
		t.Run(program, func(t *testing.T) {
			c.CheckLeaks(t)
			if program == "virtiofsd" {
				rootfsBy(t, c, "share") // or there may be none
			}
			container := c.Container(t, stubborn())
			task := container.Create(t, harness.IO{})
			task.Start(t)
			task.Expect(t, "ready\n")
			restart(t, c, unix.SIGKILL, func() { killProgram(t, c, program) })
			checkEnded(t, task, 137)
			checkCleaned(t, task)
			// The container is whole and can run again.
			again := container.Create(t, harness.IO{})
			again.Start(t)
			again.Expect(t, "ready\n")
		})
	}
}

// testEndWhileDown lets a process end while containerd is down.
func testEndWhileDown(t *testing.T, c *harness.Cell) {
	dir := hostDir(t, c, nil)
	task := c.Container(t, harness.Sh("while [ ! -e /host/go ]; do sleep 0.05; done; echo ended; exit 5"),
		harness.Mount("bind", dir, "/host", "rbind", "rw")).Create(t, harness.IO{})
	task.Start(t)
	restart(t, c, unix.SIGKILL, func() {
		makeFile(t, dir, "go")
		task.Expect(t, "ended\n")
	})
	checkEnded(t, task, 5)
	checkCleaned(t, task)
}

// checkEnded checks that a task that ended while containerd was down is told as
// ended soon after it is up. A containerd that finds a task without processes
// when it starts may remove it.
func checkEnded(t *testing.T, task *harness.Task, status uint32) {
	t.Helper()
	harness.Eventually(t, harness.Soon, func() error {
		state, err := task.State(t)
		switch {
		case errdefs.IsNotFound(err):
			t.Log("containerd has removed the task")
		case err != nil:
			return fmt.Errorf("its state: %w", err)
		case state.Status.String() != "STOPPED" || state.ExitStatus != status:
			return fmt.Errorf("its state is %v, want stopped with %d", state, status)
		}
		return nil
	})
}
