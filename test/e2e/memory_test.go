package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/test/harness"
)

// newPod makes the first container of a pod, which sleeps, and returns it and how
// others are made in the pod.
func newPod(t *testing.T, c *harness.Cell, options ...harness.Option) (*harness.Task, func(options ...harness.Option) *harness.Container) {
	t.Helper()
	id, err := c.NewID()
	if err != nil {
		t.Fatal(err)
	}
	role := func(kind string) harness.Option {
		return func(s *specs.Spec) {
			harness.Annotation("io.kubernetes.cri.container-type", kind)(s)
			harness.Annotation("io.kubernetes.cri.sandbox-id", id)(s)
		}
	}
	options = append(options, harness.Args("sleep", "1000"), role("sandbox"))
	first := c.ContainerWithID(t, id, options...).Create(t, harness.IO{})
	first.Start(t)
	return first, func(options ...harness.Option) *harness.Container {
		return c.Container(t, append(options, role("container"))...)
	}
}

// memoryLimit is a container's memory limit, without swap, in MiB.
func memoryLimit(mib int64) harness.Option {
	return func(s *specs.Spec) {
		limit := mib << 20
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	}
}

// machineMemory is what the kernel of a container's guest has, in MiB.
func machineMemory(t *testing.T, task *harness.Task) int {
	t.Helper()
	r := task.Shell(t, "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")
	kib, err := strconv.Atoi(strings.TrimSpace(r.Stdout))
	if err != nil {
		t.Fatalf("got %+v", r)
	}
	return kib >> 10
}

// residentMiB is the memory on the host of the cell's only QEMU.
func residentMiB(t *testing.T, c *harness.Cell) int {
	t.Helper()
	machines := c.Program("qemu-system")
	if len(machines) != 1 {
		t.Fatalf("there are %d virtual machines", len(machines))
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", machines[0].PID))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "\nRss:")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatalf("reading %q: %v", data, err)
	}
	return kib >> 10
}

// testMemoryGoesBack has a container use memory and free it.
func testMemoryGoesBack(t *testing.T, c *harness.Cell) {
	const used = 300
	withoutTemplates(t, c)
	task := running(t, c, harness.Annotation(hyperAnnotation+"memory_mib", "640"),
		harness.Mount("tmpfs", "tmpfs", "/used", "size=400m"))
	before := residentMiB(t, c)
	if r := task.Shell(t, fmt.Sprintf("dd if=/dev/zero of=/used/file bs=1M count=%d", used)); r.Status != 0 {
		t.Fatalf("got %+v", r)
	}
	full := residentMiB(t, c)
	if full < before+used-50 {
		t.Errorf("the machine has %d MiB, %d before %d were used", full, before, used)
	}
	begin := time.Now()
	if r := task.Shell(t, "rm /used/file"); r.Status != 0 {
		t.Fatalf("got %+v", r)
	}
	harness.Eventually(t, harness.Soon, func() error {
		if now := residentMiB(t, c); now > full-used*8/10 {
			return fmt.Errorf("the machine has %d MiB, %d when %d were used", now, full, used)
		}
		return nil
	})
	t.Logf("%d MiB, %d in use, %d again after %v", before, full, residentMiB(t, c), time.Since(begin))
}

// testPodGrows adds containers whose limits the machine holds only once it has
// grown, uses them, and takes them away.
func testPodGrows(t *testing.T, c *harness.Cell) {
	first, add := newPod(t, c, memoryLimit(64))
	began := machineMemory(t, first)
	var last *harness.Task
	for range 2 {
		last = add(harness.Args("sleep", "1000"), memoryLimit(160),
			harness.Mount("tmpfs", "tmpfs", "/used", "size=150m")).Create(t, harness.IO{})
		last.Start(t)
		if r := last.Shell(t, "dd if=/dev/zero of=/used/file bs=1M count=130"); r.Status != 0 {
			t.Errorf("using what the limit allows: %+v", r)
		}
	}
	grown := machineMemory(t, first)
	if grown < began+200 {
		t.Errorf("the machine has %d MiB, %d at first", grown, began)
	}
	if err := last.Kill(t, 9, false); err != nil {
		t.Fatal(err)
	}
	last.Wait(t, harness.Patience)
	last.Delete(t)
	begin := time.Now()
	harness.Eventually(t, harness.Soon, func() error {
		if now := machineMemory(t, first); now > grown-100 {
			return fmt.Errorf("the machine has %d MiB, %d before a container of 160 was deleted", now, grown)
		}
		return nil
	})
	t.Logf("%d MiB at first, %d with three containers, %d with two after %v", began, grown, machineMemory(t, first), time.Since(begin))
}

// testUpdateGrows raises a limit above the machine's size, and then above what it
// may have.
func testUpdateGrows(t *testing.T, c *harness.Cell) {
	withoutTemplates(t, c)
	configure(t, c, c.GuestConfig()+"[sandbox]\nmax_memory_mib = 768\n")
	first, add := newPod(t, c, ownCgroup, memoryLimit(64))
	update := func(mib int64) error {
		limit := mib << 20
		return first.Update(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}})
	}
	if err := update(500); err != nil {
		t.Fatal(err)
	}
	if r := first.Do(t, "cat", "/sys/fs/cgroup/memory.max"); r.Stdout != "524288000\n" {
		t.Errorf("after the update: %+v", r)
	}
	harness.Eventually(t, harness.Soon, func() error {
		if now := machineMemory(t, first); now < 500 {
			return fmt.Errorf("the machine has %d MiB", now)
		}
		return nil
	})
	err := update(700)
	checkRefusal(t, err, "661 MiB", "max_memory_mib")
	if r := first.Do(t, "cat", "/sys/fs/cgroup/memory.max"); r.Stdout != "524288000\n" {
		t.Errorf("after the refusal: %+v", r)
	}
	_, err = add(harness.Args("true"), memoryLimit(200)).TryCreate(t, harness.IO{})
	checkRefusal(t, err, "700 MiB, in all", "661 MiB", "max_memory_mib")
	if err := update(400); err != nil {
		t.Fatal(err)
	}
	if r := add(harness.Args("true"), memoryLimit(200)).Run(t, harness.IO{}); r.Status != 0 {
		t.Errorf("after there is room for it: %+v", r)
	}
}

func checkRefusal(t *testing.T, err error, says ...string) {
	t.Helper()
	if !errdefs.IsInvalidArgument(err) {
		t.Fatalf("got %v, want that it is refused", err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q is not in: %v", s, err)
		}
	}
}

// testNeighbourOOM lets one container of a pod run out of memory.
func testNeighbourOOM(t *testing.T, c *harness.Cell) {
	first, add := newPod(t, c)
	neighbour := add(harness.Args("sleep", "1000"), memoryLimit(200)).Create(t, harness.IO{})
	neighbour.Start(t)
	greedy := add(harness.Args("probe", "allocate", "500"), memoryLimit(200))
	events := greedy.Watch(t)
	if r := greedy.Run(t, harness.IO{}); r.Status != 137 {
		t.Errorf("got %+v", r)
	}
	events.Expect(t, "oom "+greedy.ID, harness.Soon)
	for _, task := range []*harness.Task{first, neighbour} {
		if r := task.Do(t, "echo", "alive"); r.Stdout != "alive\n" {
			t.Errorf("got %+v", r)
		}
	}
}
