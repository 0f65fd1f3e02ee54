package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"

	"github.com/hyperhq/hyper/test/harness"
)

// testMetrics looks at those of one container.
func testMetrics(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	// What sets the init up may still be there for a moment.
	harness.Eventually(t, harness.Soon, func() error {
		metric, err := task.Metrics(t)
		if err != nil {
			return err
		}
		if metric.ID != task.Container.ID || time.Since(metric.Timestamp.AsTime()).Abs() > time.Minute {
			return fmt.Errorf("they are of %s at %v", metric.ID, metric.Timestamp.AsTime())
		}
		if !strings.HasSuffix(metric.Data.GetTypeUrl(), "io.containerd.cgroups.v2.Metrics") {
			return fmt.Errorf("their type is %s", metric.Data.GetTypeUrl())
		}
		var m stats.Metrics
		if err := proto.Unmarshal(metric.Data.GetValue(), &m); err != nil {
			return err
		}
		if used := m.GetMemory().GetUsage(); m.GetPids().GetCurrent() != 1 || used == 0 || used > 256<<20 || m.GetCPU().GetUsageUsec() == 0 {
			return fmt.Errorf("got %v", &m)
		}
		return nil
	})
}

// metricsOf are a task's, as containerd's clients decode them.
func metricsOf(t *testing.T, task *harness.Task) *stats.Metrics {
	t.Helper()
	metric, err := task.Metrics(t)
	if err != nil {
		t.Fatalf("metrics: %v", err)
	}
	m := &stats.Metrics{}
	if err := proto.Unmarshal(metric.Data.GetValue(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// footprint is what a cell's machines take of the host: the resident memory of all
// their processes, in which shared pages count for each, and their processor time.
func footprint(t *testing.T, c *harness.Cell) (rss uint64, cpu time.Duration) {
	t.Helper()
	for _, program := range []string{"qemu-system", "virtiofsd", "containerd-shim-"} {
		for _, p := range c.Program(program) {
			dir := filepath.Join("/proc", itoa(p.PID))
			statm, err1 := os.ReadFile(filepath.Join(dir, "statm"))
			stat, err2 := os.ReadFile(filepath.Join(dir, "stat"))
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			pages, err := strconv.ParseUint(strings.Fields(string(statm))[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			rss += pages * uint64(os.Getpagesize())
			// Its own and its ended children's, in ticks.
			for _, field := range strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))[12:16] {
				ticks, err := strconv.ParseInt(field, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				cpu += time.Duration(ticks) * 10 * time.Millisecond
			}
		}
	}
	return rss, cpu
}

// testPodMetrics tells what a pod takes of the host from what its container uses.
func testPodMetrics(t *testing.T, c *harness.Cell) {
	id, err := c.NewID()
	if err != nil {
		t.Fatal(err)
	}
	pod := c.ContainerWithID(t, id, harness.Args("sleep", "100000"), inPod("sandbox", id)).Create(t, harness.IO{})
	pod.Start(t)
	task := running(t, c, inPod("container", id), harness.Sh("mkfifo /tmp/f; exec probe allocate 40 <>/tmp/f"))
	task.Expect(t, "allocated 40\n")

	container := metricsOf(t, task)
	_, before := footprint(t, c)
	whole := metricsOf(t, pod)
	rss, after := footprint(t, c)
	inside, outside := container.GetMemory().GetUsage(), whole.GetMemory().GetUsage()
	t.Logf("container %d MiB, pod %d MiB of %d resident", inside>>20, outside>>20, rss>>20)
	if inside < 40<<20 || inside > 80<<20 {
		t.Errorf("the container uses %d bytes", inside)
	}
	// The guest's kernel, QEMU and the shim are at least as much.
	if outside < inside+20<<20 || outside > rss+8<<20 {
		t.Errorf("the pod takes %d bytes of the host, its container %d, its processes have %d", outside, inside, rss)
	}
	m := whole.GetMemory()
	if m.GetAnon()+m.GetFile() != outside {
		t.Errorf("the pod's memory is %v", m)
	}
	// Times of the host are told in ticks of ten milliseconds.
	used := time.Duration(whole.GetCPU().GetUsageUsec()) * time.Microsecond
	if used < before || used > after {
		t.Errorf("the pod has used the processors for %v, want %v to %v", used, before, after)
	}
}

// checkWriting has a container write to a file, and all that is written anywhere go to
// the disks, and looks for that in its metrics.
func checkWriting(t *testing.T, task *harness.Task, file string) {
	t.Helper()
	const written = 512 << 10
	if r := task.Shell(t, fmt.Sprintf("dd if=/dev/zero of=%s bs=%d count=1 conv=notrunc,fsync && sync", file, written)); r.Status != 0 {
		t.Fatalf("writing: %+v", r)
	}
	var bytes, requests uint64
	for _, e := range metricsOf(t, task).GetIo().GetUsage() {
		bytes += e.GetWbytes()
		requests += e.GetWios()
	}
	if bytes < written || requests == 0 {
		t.Errorf("it has written %d bytes in %d requests, want %d", bytes, requests, written)
	}
}

// testDiskMetrics counts what a container writes to a disk, and does not count it for
// its neighbour.
func testDiskMetrics(t *testing.T, c *harness.Cell) {
	l := c.NewLoop(t, "", diskSize)
	neighbour := running(t, c)
	checkWriting(t, running(t, c, l.As("/dev/xvda", "rwm")), "/dev/xvda")
	for _, e := range metricsOf(t, neighbour).GetIo().GetUsage() {
		if e.GetWbytes() > 0 {
			t.Errorf("its neighbour has written: %v", e)
		}
	}
}

// testRootDiskMetrics counts what a container writes to a root filesystem on disks.
func testRootDiskMetrics(t *testing.T, c *harness.Cell) {
	rootfsBy(t, c, "disk")
	c.Run(t, harness.Args("true")) // which has the image built if there is none
	awaitImage(t, c)
	task := running(t, c)
	if r := task.Shell(t, rootType); r.Stdout != byDisk {
		t.Fatalf("the root is %+v", r)
	}
	checkWriting(t, task, "/root/file")
}
