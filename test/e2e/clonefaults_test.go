package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
)

// faultyQEMU is a QEMU that does to itself what a test asks for. It is asked by files
// beside it, which are all that it sees of the test's.
type faultyQEMU struct{ dir string }

// The script's process becomes QEMU, so whatever is started before that is beside it.
const faultyScript = `#!/bin/sh
here=${0%%/*}
case " $* " in
*" -incoming "*)
	if [ -e "$here/stop" ]; then kill -STOP $$; fi
	if [ -e "$here/kill" ]; then read -r after < "$here/kill"; pid=$$; (exec > /dev/null 2>&1 3<&-; sleep "$after"; kill -KILL $pid) & fi
	;;
*)
	if [ -e "$here/yesterday" ]; then set -- "$@" -rtc "base=$(date -u -d yesterday +%%Y-%%m-%%dT%%H:%%M:%%S)"; fi
	;;
esac
exec %s "$@"
`

// withFaultyQEMU has the cell's machines run by one. It is the same in all tests of a cell:
// a template is of one program.
func withFaultyQEMU(t *testing.T, c *harness.Cell) faultyQEMU {
	t.Helper()
	binary, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	q := faultyQEMU{filepath.Join(c.Dir, "faulty")}
	path := filepath.Join(q.dir, "qemu")
	if _, err := os.Stat(path); err != nil {
		if err := errors.Join(os.MkdirAll(q.dir, 0o755), os.WriteFile(path, fmt.Appendf(nil, faultyScript, binary), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	c.DropInFor(t, "20-qemu.toml", fmt.Sprintf("[qemu]\npath = %q\n", path))
	return q
}

// ask has the machines of the test do from now on what name says.
func (q faultyQEMU) ask(t *testing.T, name, how string) {
	t.Helper()
	path := filepath.Join(q.dir, name)
	if err := os.WriteFile(path, []byte(how+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
}

// forgive has them do it no more.
func (q faultyQEMU) forgive(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(q.dir, name)); err != nil {
		t.Fatal(err)
	}
}

// awaitStopped waits until a clone's process has stopped itself.
func awaitStopped(t *testing.T, c *harness.Cell) (clone harness.Process) {
	t.Helper()
	harness.Eventually(t, harness.Patience, func() error {
		for _, p := range c.Below() {
			if p.State == "T" && slices.Contains(p.Args, "-incoming") {
				clone = p
				return nil
			}
		}
		return fmt.Errorf("no clone has stopped: %v", c.Below())
	})
	if t.Failed() {
		t.FailNow()
	}
	return clone
}

// templateOf has a template built of the machines that the test has.
func templateOf(t *testing.T, c *harness.Cell) {
	t.Helper()
	once(t, c)
	awaitTemplate(t, c)
}

// created is a creation that goes on beside the test.
type created struct {
	task *harness.Task
	err  error
}

func createBeside(t *testing.T, c *harness.Cell) (*harness.Container, <-chan created) {
	t.Helper()
	container := c.Container(t, harness.Args("sleep", "100000"))
	done := make(chan created, 1)
	go func() {
		task, err := container.TryCreate(t, harness.IO{})
		done <- created{task, err}
	}()
	return container, done
}

func await(t *testing.T, done <-chan created) created {
	t.Helper()
	select {
	case c := <-done:
		return c
	case <-time.After(2 * harness.Patience):
		t.Fatal("the creation does not end")
		return created{}
	}
}

// testKilledClone kills clones before they have been restored: the machine boots, and the
// template is not used again. Then it kills others a while after they were started, at
// whatever they are: the container runs, or its creation fails, and nothing is left.
func testKilledClone(t *testing.T, c *harness.Cell) {
	withTemplates(t, c)
	q := withFaultyQEMU(t, c)
	keptTemplate(t, c, ofFaultyQEMU)

	q.ask(t, "stop", "")
	_, done := createBeside(t, c)
	clone := awaitStopped(t, c)
	if err := unix.Kill(clone.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	got := await(t, done)
	if got.err != nil {
		t.Fatalf("a container whose clone was killed: %v", got.err)
	}
	if cloned(t, c) {
		t.Error("it has another clone")
	}
	got.task.Start(t)
	if r := got.task.Shell(t, "echo hello"); r.Stdout != "hello\n" {
		t.Errorf("got %+v", r)
	}
	end(t, got.task)
	q.forgive(t, "stop")
	if once(t, c) {
		t.Error("the template is used again")
	}

	for _, after := range []string{"0.03", "0.1", "0.3"} {
		t.Run("after "+after, func(t *testing.T) {
			c.CheckLeaks(t)
			keptTemplate(t, c, ofFaultyQEMU)
			q.ask(t, "kill", after)
			defer q.forgive(t, "kill")
			_, done := createBeside(t, c)
			got := await(t, done)
			if got.err != nil {
				t.Logf("its creation fails: %v", got.err)
				return
			}
			if cloned := len(c.Program("qemu-system")) == 0 || cloned(t, c); cloned {
				if exit := got.task.Wait(t, harness.Patience); exit.Status != 137 {
					t.Errorf("it exited %d", exit.Status)
				}
				got.task.Delete(t)
				return
			}
			t.Log("its machine has booted")
			got.task.Start(t)
			if r := got.task.Shell(t, "echo hello"); r.Stdout != "hello\n" {
				t.Errorf("got %+v", r)
			}
			end(t, got.task)
		})
	}
	keptTemplate(t, c, ofFaultyQEMU)
	if !once(t, c) {
		t.Error("a whole template is not used")
	}
}

// testKilledCloner kills a shim while its clone is being restored: the clone ends with
// it, and nothing is left.
func testKilledCloner(t *testing.T, c *harness.Cell) {
	withTemplates(t, c)
	q := withFaultyQEMU(t, c)
	keptTemplate(t, c, ofFaultyQEMU)
	q.ask(t, "stop", "")
	container, done := createBeside(t, c)
	awaitStopped(t, c)
	shim, ok := c.Shim(container.ID)
	if !ok {
		t.Fatal("there is no shim")
	}
	if err := unix.Kill(shim.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := await(t, done); got.err == nil {
		t.Error("the container was created by a shim that was killed")
	}
	harness.Eventually(t, harness.Soon, func() error {
		if left := c.Below(); len(left) > 0 {
			return fmt.Errorf("there still are %v", left)
		}
		return nil
	})
	q.forgive(t, "stop")
	if !once(t, c) {
		t.Error("the template is not used any more, though nothing is wrong with it")
	}
}

// testNoRoomForTemplates has templates on a file system that is too small: machines boot,
// and no time is spent on building again and again. When there is room they are built.
func testNoRoomForTemplates(t *testing.T, c *harness.Cell) {
	withTemplates(t, c)
	dir := c.Templates()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(dir, 0), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	failed := func() []string {
		found, _ := filepath.Glob(filepath.Join(dir, "*.failed"))
		return found
	}
	once(t, c)
	harness.Eventually(t, buildLimit, func() error {
		if builders := c.Builders(); len(failed()) != 1 || len(builders) > 0 {
			return fmt.Errorf("failures %q, builders %v", failed(), builders)
		}
		return nil
	})
	if t.Failed() {
		t.FailNow()
	}
	why, err := os.ReadFile(failed()[0])
	if err != nil || !strings.Contains(string(why), "no space left") {
		t.Errorf("why it failed: %q, %v", why, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.unfinished")); err != nil || len(left) > 0 {
		t.Errorf("left of it: %q, %v", left, err)
	}
	if once(t, c) {
		t.Error("a clone runs")
	}
	if builders := c.Builders(); len(builders) > 0 {
		t.Errorf("it is tried again at once: %v", builders)
	}
	// An operator makes room and asks for another try.
	if err := errors.Join(unix.Mount("", dir, "", unix.MS_REMOUNT, "size=256m"), os.Remove(failed()[0])); err != nil {
		t.Fatal(err)
	}
	templateOf(t, c)
	if !once(t, c) {
		t.Error("there is a template, and no clone")
	}
}

// testOldTemplate has a template of a guest whose clock was a day behind when it was
// saved, as one has that is a day old.
func testOldTemplate(t *testing.T, c *harness.Cell) {
	withTemplates(t, c)
	q := withFaultyQEMU(t, c)
	q.ask(t, "yesterday", "")
	templateOf(t, c)
	keepTemplate(t, c, ofFaultyQEMU)
	task := running(t, c)
	if !cloned(t, c) {
		t.Fatal("no clone runs")
	}
	checkClock(t, task)
	// What the guest has mounted when it booted has the time of that moment.
	text := strings.TrimSpace(task.Shell(t, "stat -c %Y /sys").Stdout)
	booted, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("the guest's boot was at %q", text)
	}
	if age := time.Since(time.Unix(booted, 0)); age < 23*time.Hour || age > 25*time.Hour {
		t.Errorf("the template's guest has booted %v ago, by its clock", age)
	}
	if r := task.Shell(t, "touch /file; age=$(( $(date +%s) - $(stat -c %Y /file) )); [ $age -ge 0 -a $age -lt 60 ] || echo $age"); r.Status != 0 || r.Stdout != "" {
		t.Errorf("a new file's age: %+v", r)
	}
	end(t, task)
}

// forgetTemplates removes the test's own templates, and what is known of failures.
func forgetTemplates(t *testing.T, c *harness.Cell) {
	t.Helper()
	awaitBuilders(t, c)
	if err := os.RemoveAll(c.Templates()); err != nil {
		t.Error(err)
	}
}
