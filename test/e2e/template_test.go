package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
)

// buildLimit is how long the build of a template may take on a busy machine.
const buildLimit = harness.Patience

// cloned says whether the machine of the cell's only sandbox is a clone.
func cloned(t *testing.T, c *harness.Cell) bool {
	t.Helper()
	machines := c.Program("qemu-system")
	if len(machines) != 1 {
		t.Fatalf("%d machines run: %v", len(machines), machines)
	}
	return slices.Contains(machines[0].Args, "-incoming")
}

// awaitBuilders waits until nobody builds a template.
func awaitBuilders(t *testing.T, c *harness.Cell) {
	t.Helper()
	harness.Eventually(t, buildLimit, func() error {
		if builders := c.Builders(); len(builders) > 0 {
			return fmt.Errorf("a builder does not end: %v", builders)
		}
		return nil
	})
}

// awaitTemplate waits until the test's own templates are one, and nobody builds any more.
func awaitTemplate(t *testing.T, c *harness.Cell) (path string) {
	t.Helper()
	return awaitTemplateIn(t, c, c.Templates())
}

// awaitTemplateIn is awaitTemplate of those in a directory.
func awaitTemplateIn(t *testing.T, c *harness.Cell, dir string) (path string) {
	t.Helper()
	harness.Eventually(t, buildLimit, func() error {
		found, err := filepath.Glob(filepath.Join(dir, "*.template"))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("templates %v, %w", found, err)
		}
		// Only now, since that is a look at every process.
		if builders := c.Builders(); len(builders) > 0 {
			return fmt.Errorf("templates %v, builders %v", found, builders)
		}
		path = found[0]
		return nil
	})
	if t.Failed() {
		t.FailNow()
	}
	return path
}

// withTemplates gives the test templates of its own, none at first. All its machines are
// of one kind, without a share.
func withTemplates(t *testing.T, c *harness.Cell) {
	t.Helper()
	rootfsBy(t, c, "disk") // or the first of the cell has one
	awaitBuilders(t, c)
	c.DropInFor(t, "05-templates.toml", fmt.Sprintf("[template]\nenable = true\ndirectory = %q\n", c.Templates()))
	t.Cleanup(func() { forgetTemplates(t, c) })
}

// withoutTemplates has the test's machines boot: they are of kinds that no other test
// has, of which templates would be built for nobody.
func withoutTemplates(t *testing.T, c *harness.Cell) {
	t.Helper()
	c.DropInFor(t, "07-templates.toml", "[template]\nenable = false\n")
}

// testTemplate runs what a container does in a machine that booted, and in clones.
func testTemplate(t *testing.T, c *harness.Cell) {
	withTemplates(t, c)
	seen := map[string]string{}
	for i, want := range []bool{false, true, true} {
		task := running(t, c)
		if got := cloned(t, c); got != want {
			t.Errorf("machine %d: a clone: %v", i, got)
		}
		// The first that reads random numbers in the clone's first moments.
		for _, source := range []string{"probe random", "cat /proc/sys/kernel/random/boot_id", "cat /proc/sys/kernel/random/uuid"} {
			id := task.Shell(t, source).Stdout
			if other, ok := seen[id]; ok || len(id) < 32 {
				t.Errorf("machine %d: %s gives %q, as did %s", i, source, id, other)
			}
			seen[id] = source
		}
		checkClock(t, task)
		if r := task.Shell(t, "dd if=/dev/zero bs=64k count=4 | tee /file | wc -c; rm /file"); r.Stdout != "262144\n" {
			t.Errorf("machine %d: %+v", i, r)
		}
		task.Kill(t, uint32(unix.SIGKILL), true)
		task.Wait(t, harness.Soon)
		task.Delete(t)
		awaitTemplate(t, c)
	}
	keepTemplate(t, c, ofQEMU)
}

// clockLimit is how far a guest's clock may be from the host's.
const clockLimit = 50 * time.Millisecond

// checkClock compares the guest's clock with the host's: it must be what the host's
// was between the asking and the answer, give or take the limit.
func checkClock(t *testing.T, task *harness.Task) {
	t.Helper()
	before := time.Now()
	text := strings.TrimSpace(task.Shell(t, "probe now").Stdout)
	after := time.Now()
	ns, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Errorf("the guest's time is %q", text)
		return
	}
	guest := time.Unix(0, ns)
	if guest.Before(before.Add(-clockLimit)) || guest.After(after.Add(clockLimit)) {
		t.Errorf("the guest's time is %v, the host's was between %v and %v", guest, before, after)
	}
}

// once runs a container and says whether its machine was a clone.
func once(t *testing.T, c *harness.Cell) bool {
	t.Helper()
	task := running(t, c)
	is := cloned(t, c)
	if r := task.Shell(t, "echo hello"); r.Stdout != "hello\n" {
		t.Errorf("got %+v", r)
	}
	task.Kill(t, uint32(unix.SIGKILL), true)
	task.Wait(t, harness.Soon)
	task.Delete(t)
	return is
}

// testDamagedTemplate damages a template, so that it shows when it is opened or only
// while a machine starts: the next machine boots, and makes a new one. All the ways in
// which one can be damaged are in the tests of the store.
func testDamagedTemplate(t *testing.T, c *harness.Cell) {
	withTemplates(t, c)
	keptTemplate(t, c, ofQEMU)
	for _, damage := range []struct {
		name string
		do   func(path string, size int64) error
	}{
		{"cut off", func(path string, size int64) error { return os.Truncate(path, size-1) }},
		{"head", func(path string, _ int64) error { return flip(path, 9) }},
		{"memory", func(path string, size int64) error { return flip(path, size-5000) }},
	} {
		t.Run(damage.name, func(t *testing.T) {
			c.CheckLeaks(t)
			path := awaitTemplate(t, c)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := damage.do(path, info.Size()); err != nil {
				t.Fatal(err)
			}
			if once(t, c) {
				t.Error("a clone of a damaged template runs")
			}
			awaitTemplate(t, c)
			if !once(t, c) {
				t.Error("the template has not been made anew")
			}
		})
	}
}

// flip changes one byte of a file.
func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := io.ReadFull(io.NewSectionReader(f, at, 1), b); err != nil {
		return err
	}
	b[0] ^= 0x10
	_, err = f.WriteAt(b, at)
	return err
}

// testKilledBuilder kills a builder: nothing of it is left, and the next one builds.
func testKilledBuilder(t *testing.T, c *harness.Cell) {
	withTemplates(t, c)
	task := running(t, c)
	harness.Eventually(t, buildLimit, func() error {
		if builders := c.Builders(); len(builders) != 1 {
			return fmt.Errorf("builders: %v", builders)
		}
		return nil
	})
	for _, p := range c.Builders() {
		checkOutside(t, c, p)
		if err := unix.Kill(p.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	task.Kill(t, uint32(unix.SIGKILL), true)
	task.Wait(t, harness.Soon)
	task.Delete(t)
	harness.Eventually(t, harness.Soon, func() error {
		if left := c.Program("qemu-system"); len(left) > 0 {
			return fmt.Errorf("machines are left: %v", left)
		}
		return nil
	})
	if once(t, c) {
		t.Error("there is a template, though its builder was killed")
	}
	awaitTemplate(t, c)
	if !once(t, c) {
		t.Error("the template is not used")
	}
}

// checkOutside looks whether a builder has anything of the pod that wanted the
// template: its mounts, or its cgroup.
func checkOutside(t *testing.T, c *harness.Cell, p harness.Process) {
	t.Helper()
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", p.PID))
	ours, oerr := os.Readlink("/proc/self/ns/mnt")
	if err := errors.Join(err, oerr); err != nil || theirs != ours {
		t.Errorf("the builder is in mount namespace %s, containerd in %s (%v)", theirs, ours, err)
	}
	// It is moved before it is told what to build.
	harness.Eventually(t, harness.Soon, func() error {
		cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
		if err != nil {
			return err
		}
		if strings.Contains(string(cgroups), c.Namespace) {
			return fmt.Errorf("the builder is in the pod's cgroup:\n%s", cgroups)
		}
		return nil
	})
}

// testNoTemplates has machines boot.
func testNoTemplates(t *testing.T, c *harness.Cell) {
	withTemplates(t, c)
	c.DropInFor(t, "06-templates.toml", "[template]\nenable = false\n")
	for range 2 {
		if once(t, c) {
			t.Error("a clone runs")
		}
	}
	if _, err := os.Stat(c.Templates()); !os.IsNotExist(err) {
		t.Errorf("the directory of templates: %v", err)
	}
}
