package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
)

// withPool gives the test a pool, in which one may wait, and ends who waits when it has
// ended. The tests of the pool have templates in common, and with no other lane: so that
// who has one built is among the cell's builders.
func withPool(t *testing.T, c *harness.Cell, idleSeconds int) {
	t.Helper()
	awaitBuilders(t, c)
	rootfsBy(t, c, "disk") // from the first container on
	templates := filepath.Join(c.Dir, "pool-templates")
	c.DropInFor(t, "50-pool.toml", fmt.Sprintf("[template]\nenable = true\ndirectory = %q\n[pool]\nenable = true\nmax = 1\nidle_seconds = %d\n",
		templates, idleSeconds))
	if err := linkTemplates(c.CommonTemplates(), templates); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		endParked(t, c)
		checkNobodyWaits(t, c)
		if err := os.RemoveAll(filepath.Join(c.Dir, "run/pool")); err != nil {
			t.Error(err)
		}
	})
}

// endParked ends who waits in the pool.
func endParked(t *testing.T, c *harness.Cell) {
	t.Helper()
	harness.Eventually(t, harness.Soon, func() error {
		left := parked(c)
		for _, p := range left {
			// One that has just ended needs none.
			_ = unix.Kill(p.PID, unix.SIGTERM)
		}
		if len(left) > 0 {
			return fmt.Errorf("shims are still parked: %v", left)
		}
		return nil
	})
}

// testPoolInTurn runs tests one after the other that leave to the next who waits: a
// machine that has rehearsed is most of what one of them would take.
func testPoolInTurn(t *testing.T, c *harness.Cell) {
	withPool(t, c, 600)
	for _, test := range []test{
		{name: "use", run: testPool},
		{name: "others", run: testPoolOthers},
		{name: "as others", run: testPoolAsOthers},
		{name: "wrong guess", run: testPoolGuess},
		{name: "another's cgroup", run: testPoolCgroup},
		{name: "several at once", run: testPoolAtOnce},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.run(t, c) }) {
			endParked(t, c)
		}
	}
}

// parked are the shims that were parked, those among them that have a pod by now.
func parked(c *harness.Cell) []harness.Process {
	return slices.DeleteFunc(c.Program("containerd-shim-hyper"), func(p harness.Process) bool {
		return len(p.Args) == 0 || p.Args[len(p.Args)-1] != "park"
	})
}

// places are the files of those who wait in the pool.
func places(c *harness.Cell) []string {
	found, _ := filepath.Glob(filepath.Join(c.Dir, "run/pool/*/[0-9]*"))
	return found
}

// checkNobodyWaits checks that nothing is left of those who waited.
func checkNobodyWaits(t *testing.T, c *harness.Cell) {
	t.Helper()
	if left := places(c); len(left) > 0 {
		t.Errorf("left in the pool are %v", left)
	}
}

// awaitParked waits until a shim waits, and gives the process ids that its place names:
// its own and that of its machine.
func awaitParked(t *testing.T, c *harness.Cell) (shim, machine int) {
	t.Helper()
	harness.Eventually(t, buildLimit, func() error {
		sockets, _ := filepath.Glob(filepath.Join(c.Dir, "run/pool/*/*.sock"))
		if len(sockets) == 0 {
			return errors.New("no shim waits in the pool")
		}
		text, err := os.ReadFile(strings.TrimSuffix(sockets[0], ".sock"))
		if err != nil {
			return err
		}
		pids := map[string]int{}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) == 3 {
				pids[fields[2]], _ = strconv.Atoi(fields[0])
			}
		}
		if shim, machine = pids["shim"], pids["qemu"]; shim == 0 || machine == 0 {
			return fmt.Errorf("who waits is not recorded: %q", text)
		}
		return nil
	})
	if t.Failed() {
		t.FailNow()
	}
	return shim, machine
}

// fill starts containers until a shim waits: of the first there may be neither an image
// nor a template yet, and from the second on that is counted one is parked.
func fill(t *testing.T, c *harness.Cell) (shim, machine int) {
	t.Helper()
	for range 3 {
		if len(parked(c)) > 0 {
			break
		}
		if r := c.Run(t, harness.Args("echo", "good")); r.Stdout != "good\n" {
			t.Fatalf("%+v", r)
		}
		awaitBuilders(t, c)
	}
	return awaitParked(t, c)
}

// pooled runs a container, with what it is to do beside sleeping, and says whether its
// machine is from the pool.
func pooled(t *testing.T, c *harness.Cell, do func(*harness.Task), options ...harness.Option) bool {
	t.Helper()
	logged := c.LogSize()
	task := running(t, c, options...)
	if do != nil {
		do(task)
	}
	if err := task.Kill(t, uint32(unix.SIGKILL), true); err != nil {
		t.Error(err)
	}
	task.Wait(t, harness.Soon)
	task.Delete(t)
	return wasPooled(t, c, logged)
}

// wasPooled says whether the only machine that has started since the log had a size is
// from the pool.
func wasPooled(t *testing.T, c *harness.Cell, logged int64) bool {
	t.Helper()
	log, err := c.LogFrom(logged)
	if err != nil {
		t.Fatal(err)
	}
	var starts []string
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, `msg="guest is ready"`) {
			starts = append(starts, line)
		}
	}
	if len(starts) != 1 {
		t.Fatalf("%d machines have started:\n%s", len(starts), strings.Join(starts, ""))
	}
	return strings.Contains(starts[0], " from=pool ")
}

// testPool runs what a container does in machines of the pool, which must not be alike.
func testPool(t *testing.T, c *harness.Cell) {
	if pooled(t, c, nil) {
		t.Error("the first machine is from the pool")
	}
	if left := places(c); len(left) > 0 {
		t.Errorf("after one start alone there are %v", left)
	}
	awaitBuilders(t, c)
	fill(t, c)
	seen := map[string]string{}
	for i := range 2 {
		shim, _ := awaitParked(t, c)
		is := pooled(t, c, func(task *harness.Task) {
			for _, source := range []string{"probe random", "cat /proc/sys/kernel/random/boot_id", "cat /proc/sys/kernel/random/uuid"} {
				id := task.Shell(t, source).Stdout
				if other, ok := seen[id]; ok || len(id) < 32 {
					t.Errorf("machine %d: %s gives %q, as did %s", i, source, id, other)
				}
				seen[id] = source
			}
			checkClock(t, task)
			checkUnused(t, task)
			if r := task.Shell(t, "dd if=/dev/zero bs=64k count=4 | tee /file | wc -c; rm /file; exit 7"); r.Stdout != "262144\n" || r.Status != 7 {
				t.Errorf("machine %d: %+v", i, r)
			}
			if recorded, err := os.ReadFile(recordOf(t, c)); err != nil || !strings.HasPrefix(string(recorded), fmt.Sprint(shim, " ")) {
				t.Errorf("machine %d: the server is %q, not %d, %v", i, recorded, shim, err)
			}
		})
		if !is {
			t.Errorf("machine %d is not from the pool", i)
		}
	}
	awaitParked(t, c)
	logged := c.LogSize()
	if r := c.Container(t, harness.Sh("cat; echo oops >&2; exit 3")).Run(t, harness.IO{Stdin: strings.NewReader("typed\n")}); r.Stdout != "typed\n" || r.Stderr != "oops\n" || r.Status != 3 {
		t.Errorf("%+v", r)
	}
	if !wasPooled(t, c, logged) {
		t.Error("the last machine is not from the pool")
	}
}

// recordOf is the file that names the server of the cell's only sandbox.
func recordOf(t *testing.T, c *harness.Cell) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.Dir, "run/*/shim.pid"))
	if err != nil || len(files) != 1 {
		t.Fatalf("records of servers: %v, %v", files, err)
	}
	return files[0]
}

// checkUnused checks that nothing is left of the container that the machine has run
// before: its cgroup, its mounts, its disks.
func checkUnused(t *testing.T, task *harness.Task) {
	t.Helper()
	r := task.Shell(t, "cat /proc/mounts /proc/self/mountinfo; ls /sys/block; cat /sys/block/*/serial; hostname")
	if r.Status != 0 || strings.Contains(r.Stdout, "rehearsal") {
		t.Errorf("something is left of the rehearsal: %+v", r)
	}
}

// testPoolOthers has containers that must not have the machine that waits.
func testPoolOthers(t *testing.T, c *harness.Cell) {
	shim, _ := fill(t, c)
	host := hostDir(t, c, map[string]string{"f": "from the host\n"})
	for name, option := range map[string]harness.Option{
		"another size": func(s *specs.Spec) {
			s.Annotations = map[string]string{"io.containerd.hyper.v2.memory_mib": "300"}
		},
		"a bind": harness.Mount("bind", host, "/host", "rbind", "ro"),
	} {
		if pooled(t, c, nil, option) {
			t.Errorf("%s: its machine is from the pool", name)
		}
	}
	if !strings.HasPrefix(c.Version, "1.") { // which has no sandbox controller for shims
		logged := c.LogSize()
		limit := int64(64 << 20)
		s := c.SandboxOf(t, &specs.Spec{Version: specs.Version, Linux: &specs.Linux{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}}})
		s.Start(t)
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
		if wasPooled(t, c, logged) {
			t.Error("a pod of the sandbox API: its machine is from the pool")
		}
	}
	c.DropInFor(t, "60-other.toml", "[rootfs]\nlayers_mib = 3000\n") // which is nothing to a template
	if pooled(t, c, nil) {
		t.Error("another configuration: its machine is from the pool")
	}
	if now, _ := awaitParked(t, c); now != shim {
		t.Errorf("process %d waited, now %d", shim, now)
	}
}

// testPoolGuess has containers of which it shows only when they are made that the
// machine is of no use: their snapshots have been written to.
func testPoolGuess(t *testing.T, c *harness.Cell) {
	fill(t, c)
	container := c.Container(t, harness.Sh("cat /kept; echo kept >/kept"))
	if r := container.Run(t, harness.IO{}); r.Stdout != "" {
		t.Errorf("%+v", r)
	}
	awaitParked(t, c)
	logged := c.LogSize()
	if r := container.Run(t, harness.IO{}); r.Stdout != "kept\n" {
		t.Errorf("%+v", r)
	}
	if wasPooled(t, c, logged) {
		t.Error("a machine of the pool has a share")
	}
}

// testPoolCgroup has a machine of the pool be refused the cgroup that its container names,
// which is found out while the guest is made its own.
func testPoolCgroup(t *testing.T, c *harness.Cell) {
	fill(t, c)
	path := "/" + c.Namespace + "/taken"
	in := func(s *specs.Spec) { s.Linux.CgroupsPath = path }
	first := running(t, c, in)
	_, machine := awaitParked(t, c)
	if task, err := c.Container(t, harness.Args("true"), in).TryCreate(t, harness.IO{}); err == nil {
		t.Errorf("a second was made in it, with the process %d", task.PID)
	} else if !strings.Contains(err.Error(), path) {
		t.Errorf("the error does not name the cgroup: %v", err)
	}
	awaitGone(t, machine)
	if r := first.Do(t, "echo", "lives"); r.Stdout != "lives\n" {
		t.Errorf("the first: %+v", r)
	}
	if err := first.Kill(t, uint32(unix.SIGKILL), false); err != nil {
		t.Fatal(err)
	}
	first.Finish(t)
}

// testPoolKilled kills processes that wait, and that have just stopped to.
func testPoolKilled(t *testing.T, c *harness.Cell) {
	withPool(t, c, 600)
	for _, victim := range []string{"shim", "qemu"} {
		t.Run("waiting "+victim, func(t *testing.T) {
			shim, machine := fill(t, c)
			if victim == "qemu" {
				shim, machine = machine, shim
			}
			if err := unix.Kill(shim, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			awaitGone(t, machine)
			// What the first has left is found by the next, which is not from the pool.
			if pooled(t, c, nil) {
				t.Error("a killed machine runs")
			}
			awaitParked(t, c)
			if !pooled(t, c, nil) {
				t.Error("the machine that waits is not used")
			}
		})
	}
	t.Run("used shim", func(t *testing.T) {
		shim, machine := fill(t, c)
		task := running(t, c)
		if err := unix.Kill(shim, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		awaitGone(t, machine)
		checkCleaned(t, task)
	})
	t.Run("used qemu", func(t *testing.T) {
		// The shim that was killed may not have had another one parked.
		_, machine := fill(t, c)
		task := running(t, c)
		if err := unix.Kill(machine, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if exit := task.Wait(t, harness.Soon); exit.Status != 137 {
			t.Errorf("it exited %d", exit.Status)
		}
		task.Delete(t)
	})
}

// awaitGone waits until a process has ended.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	harness.Eventually(t, harness.Soon, func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			return fmt.Errorf("process %d lives", pid)
		}
		return nil
	})
}

// testPoolIdle leaves the pool alone: nobody waits for long.
func testPoolIdle(t *testing.T, c *harness.Cell) {
	const idle = 15 * time.Second
	withPool(t, c, int(idle.Seconds()))
	shim, machine := fill(t, c)
	began := time.Now()
	harness.Eventually(t, harness.Patience, func() error {
		if left := parked(c); len(left) > 0 {
			return fmt.Errorf("shims are parked: %v", left)
		}
		return nil
	})
	if waited := time.Since(began); waited > harness.Allow(2*idle) {
		t.Errorf("it waited %v", waited)
	}
	awaitGone(t, shim)
	awaitGone(t, machine)
	checkNobodyWaits(t, c)
	if pooled(t, c, nil) {
		t.Error("a machine that has ended runs")
	}
}

// testPoolAtOnce starts more containers at once than wait.
func testPoolAtOnce(t *testing.T, c *harness.Cell) {
	fill(t, c)
	logged := c.LogSize()
	testAtOnce(t, c)
	log, err := c.LogFrom(logged)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(log), " from=pool "); n != 1 {
		t.Errorf("%d machines are from the pool", n)
	}
}

// testPoolAsOthers runs tests of all kinds with machines of the pool.
func testPoolAsOthers(t *testing.T, c *harness.Cell) {
	fill(t, c)
	for _, other := range []struct {
		name string
		run  func(*testing.T, *harness.Cell)
	}{
		{"terminal", testTerminal},
		{"20 MiB through cat", testStdin},
		{"several execs", testExecsAtOnce},
		{"pause", testPause},
		{"an update grows the machine", testPooledGrows},
		{"written files persist", testRootfsPersists},
		{"network by ctr", testCtrCNI},
	} {
		t.Run(other.name, func(t *testing.T) {
			awaitParked(t, c)
			logged := c.LogSize()
			other.run(t, c)
			log, err := c.LogFrom(logged)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(log), " from=pool ") {
				t.Error("no machine was from the pool")
			}
		})
	}
}

// testPooledGrows has a machine grow that was made before its container was known.
func testPooledGrows(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	limit := int64(400 << 20)
	if err := task.Update(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, harness.Soon, func() error {
		if now := machineMemory(t, task); now < 400 {
			return fmt.Errorf("the machine has %d MiB", now)
		}
		return nil
	})
}
