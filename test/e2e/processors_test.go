package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/test/harness"
)

// cpuQuota is a container's limit in hundredths of a processor.
func cpuQuota(hundredths int64) harness.Option {
	return func(s *specs.Spec) { s.Linux.Resources.CPU = cpuLimit(hundredths) }
}

func cpuLimit(hundredths int64) *specs.LinuxCPU {
	quota, period := hundredths*1000, uint64(100000)
	return &specs.LinuxCPU{Quota: &quota, Period: &period}
}

// cpuSet is a container's set of processors.
func cpuSet(cpus string) harness.Option {
	return func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: cpus} }
}

// processors is on how many processors a container can run.
func processors(t *testing.T, task *harness.Task) string {
	t.Helper()
	return strings.TrimSpace(task.Shell(t, "nproc").Stdout)
}

func checkProcessors(t *testing.T, when string, want int, tasks ...*harness.Task) {
	t.Helper()
	for _, task := range tasks {
		if got := processors(t, task); got != fmt.Sprint(want) {
			t.Errorf("%s: a container has %q processors, want %d", when, got, want)
		}
	}
}

// configureFour allows machines of four processors, also where the host has fewer. The
// tests of processors have templates of such machines in common, which nobody else has use
// for; they have a share.
func configureFour(t *testing.T, c *harness.Cell) {
	t.Helper()
	configure(t, c, c.GuestConfig()+"[sandbox]\nmax_vcpus = 4\n")
	rootfsBy(t, c, "share")
	awaitBuilders(t, c)
	c.DropInFor(t, "05-templates.toml", fmt.Sprintf("[template]\ndirectory = %q\n", processorTemplates(c)))
}

func processorTemplates(c *harness.Cell) string { return filepath.Join(c.Dir, "processor-templates") }

// testTemplateProcessors: machines of different numbers of processors go on from one
// template.
func testTemplateProcessors(t *testing.T, c *harness.Cell) {
	configureFour(t, c)
	if err := os.RemoveAll(processorTemplates(c)); err != nil {
		t.Fatal(err)
	}
	c.DropInFor(t, "06-templates.toml", "[template]\nenable = true\n")
	for i, hundredths := range []int64{50, 300, 200, 400} {
		task := running(t, c, cpuQuota(hundredths))
		if got := cloned(t, c); got != (i > 0) {
			t.Errorf("machine %d: a clone: %v", i, got)
		}
		checkProcessors(t, fmt.Sprintf("machine %d", i), int(hundredths+99)/100, task)
		end(t, task)
		awaitTemplateIn(t, c, processorTemplates(c))
	}
}

// keepBusy has a container keep every processor of its machine busy, and leave them to
// others: what is to be seen is that processors come and go under load, and not how long
// it takes when an emulated guest is overloaded.
func keepBusy(t *testing.T, task *harness.Task) {
	t.Helper()
	if r := task.Shell(t, "for i in 1 2 3 4; do probe busy & done"); r.Status != 0 {
		t.Fatalf("got %+v", r)
	}
}

// leastShares has a container's processes come after those of all others.
func leastShares(s *specs.Spec) {
	shares := uint64(2)
	s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: &shares}
}

// testProcessorsFollow adds containers, changes and deletes them, while one keeps every
// processor busy.
func testProcessorsFollow(t *testing.T, c *harness.Cell) {
	configureFour(t, c)
	first, add := newPod(t, c, leastShares)
	checkProcessors(t, "at first", 1, first)
	keepBusy(t, first)
	second := add(harness.Args("sleep", "1000"), cpuQuota(120)).Create(t, harness.IO{})
	second.Start(t)
	checkProcessors(t, "with a limit of 1.2", 2, first, second)
	third := add(harness.Args("sleep", "1000"), cpuQuota(70)).Create(t, harness.IO{})
	third.Start(t)
	checkProcessors(t, "with limits of 1.2 and 0.7", 2, first, second, third)

	if err := second.Update(t, &specs.LinuxResources{CPU: cpuLimit(900)}); err != nil {
		t.Fatal(err)
	}
	checkProcessors(t, "with a limit above what there may be", 4, first, second, third)
	if err := second.Update(t, &specs.LinuxResources{CPU: cpuLimit(160)}); err != nil {
		t.Fatal(err)
	}
	checkProcessors(t, "with limits of 1.6 and 0.7", 3, first, second, third)
	for _, task := range []*harness.Task{second, third} {
		if err := task.Kill(t, 9, false); err != nil {
			t.Fatal(err)
		}
		task.Wait(t, harness.Patience)
		task.Delete(t)
	}
	checkProcessors(t, "when the others are deleted", 1, first)
}

// testProcessorsAgain takes processors into use and out of use, again and again, while
// every one is busy.
func testProcessorsAgain(t *testing.T, c *harness.Cell) {
	configureFour(t, c)
	task := running(t, c, ownCgroup)
	keepBusy(t, task)
	begin := time.Now()
	for i := range 10 {
		want := 4 - 3*(i%2)
		if err := task.Update(t, &specs.LinuxResources{CPU: cpuLimit(int64(want) * 100)}); err != nil {
			t.Fatal(err)
		}
		checkProcessors(t, fmt.Sprintf("change %d", i), want, task)
		checkHostQuota(t, c, want+1)
	}
	t.Logf("%v for each change, with a look", time.Since(begin)/10)
}

// checkHostQuota looks how much processor time the cell's only machine may use on the
// host, in processors.
func checkHostQuota(t *testing.T, c *harness.Cell, want int) {
	t.Helper()
	for line := range strings.Lines(machineGroups(t, c)) {
		file, wanted := "", ""
		if _, path, ok := strings.Cut(strings.TrimSpace(line), ":cpu:"); ok {
			file, wanted = "/sys/fs/cgroup/cpu"+path+"/cpu.cfs_quota_us", fmt.Sprintf("%d\n", want*100000)
		} else if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			file, wanted = "/sys/fs/cgroup"+path+"/cpu.max", fmt.Sprintf("%d 100000\n", want*100000)
		}
		quota, err := os.ReadFile(file)
		if file == "" || errors.Is(err, fs.ErrNotExist) {
			continue // the hierarchy does not have the processors
		}
		if err != nil || string(quota) != wanted {
			t.Errorf("on the host it has a quota of %q, %v, want that of %d processors", quota, err, want)
		}
		return
	}
	t.Log("the host's cgroups have the processors elsewhere: the machine's quota was not looked at")
}

// testProcessorsAtStart: a program finds what its limit needs from its first instruction,
// or what an annotation says.
func testProcessorsAtStart(t *testing.T, c *harness.Cell) {
	configureFour(t, c)
	fixed := harness.Annotation(hyperAnnotation+"vcpus", "2")
	for _, test := range []struct {
		name    string
		options []harness.Option
		want    string
		fixed   bool // of which there is no template
	}{
		{"a limit", []harness.Option{cpuQuota(250)}, "3", false},
		{"a set of the host's", []harness.Option{cpuSet("61-62")}, "2", false},
		{"an annotation", []harness.Option{fixed, cpuQuota(400)}, "2", true},
		{"an annotation and a set", []harness.Option{fixed, cpuSet("1")}, "1", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.CheckLeaks(t)
			if test.fixed {
				withoutTemplates(t, c)
			}
			r := c.Container(t, append(test.options, harness.Args("nproc"))...).Run(t, harness.IO{})
			if r.Stdout != test.want+"\n" || r.Status != 0 {
				t.Errorf("it has %+v, want %s", r, test.want)
			}
		})
	}
}
