package e2e

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperhq/hyper/test/harness"
)

func testExitStatus(t *testing.T, c *harness.Cell) {
	r := c.Run(t, harness.Sh("echo out; echo err >&2; exit 7"))
	if r.Status != 7 || r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("got %+v", r)
	}
}

func testExitAtOnce(t *testing.T, c *harness.Cell) {
	if r := c.Run(t, harness.Args("true")); r.Status != 0 || r.Stdout+r.Stderr != "" {
		t.Errorf("got %+v", r)
	}
}

// testExecExitStatus covers what the kernel makes of an exit: codes, and 128+n
// for a death by signal n.
func testExecExitStatus(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	for _, test := range []struct {
		script string
		want   uint32
	}{
		{"true", 0}, {"exit 1", 1}, {"exit 255", 255}, {"exit 256", 0},
		{"kill -TERM $$", 128 + 15}, {"kill -KILL $$", 128 + 9}, {"kill -SEGV $$", 128 + 11}, {"kill -HUP $$", 128 + 1},
	} {
		if r := task.Shell(t, test.script); r.Status != test.want {
			t.Errorf("%q exited %d, want %d", test.script, r.Status, test.want)
		}
	}
}

// testOwnKernel compares what no two booted kernels share.
func testOwnKernel(t *testing.T, c *harness.Cell) {
	const bootID = "/proc/sys/kernel/random/boot_id"
	host, err := os.ReadFile(bootID)
	if err != nil {
		t.Fatal(err)
	}
	first := c.Run(t, harness.Sh("cat "+bootID+"; uname -v -r >&2"))
	second := c.Run(t, harness.Args("cat", bootID))
	if first.Status != 0 || first.Stdout == string(host) || first.Stdout == second.Stdout || len(first.Stdout) != len(host) {
		t.Errorf("the host's boot id is %q, the containers' are %q and %q", host, first.Stdout, second.Stdout)
	}
	t.Logf("the guest's kernel: %s", first.Stderr)
}

func testMissingCommand(t *testing.T, c *harness.Cell) {
	container := c.Container(t, harness.Args("no-such-command"))
	task, err := container.TryCreate(t, harness.IO{})
	if err == nil {
		err = task.TryStart(t)
	}
	if err == nil || !strings.Contains(err.Error(), `exec: "no-such-command": executable file not found in $PATH`) {
		t.Fatalf("got %v", err)
	}
	if err := container.Remove(t.Context()); err != nil {
		t.Errorf("removing it: %v", err)
	}
	if r := c.Run(t, harness.Args("echo", "good")); r.Status != 0 || r.Stdout != "good\n" {
		t.Errorf("a good run after it: %+v", r)
	}
}

func testMissingPath(t *testing.T, c *harness.Cell) {
	container := c.Container(t, harness.Args("/no/such/file"))
	task, err := container.TryCreate(t, harness.IO{})
	if err == nil {
		err = task.TryStart(t)
	}
	if err == nil || !strings.Contains(err.Error(), "/no/such/file") || !strings.Contains(err.Error(), "no such file or directory") {
		t.Fatalf("got %v", err)
	}
}

// testAtOnce starts containers at the same time.
func testAtOnce(t *testing.T, c *harness.Cell) {
	const n = 4
	var tasks [n]*harness.Task
	var errs [n]error
	var all sync.WaitGroup
	for i := range n {
		container := c.Container(t, harness.Sh(fmt.Sprintf("echo I am %d; exit %d", i, i)))
		all.Go(func() {
			if tasks[i], errs[i] = container.TryCreate(t, harness.IO{}); errs[i] == nil {
				errs[i] = tasks[i].TryStart(t)
			}
		})
	}
	all.Wait()
	for i, task := range tasks {
		if errs[i] != nil {
			t.Fatalf("starting the container %d: %v", i, errs[i])
		}
		if r := task.Finish(t); r.Status != uint32(i) || r.Stdout != fmt.Sprintf("I am %d\n", i) {
			t.Errorf("%d: got %+v", i, r)
		}
	}
}

// testLoopback finds lo up, and nothing else, in a new network namespace.
func testLoopback(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	r := task.Shell(t, "ls /sys/class/net; cat /sys/class/net/lo/flags; ip -4 -o addr show lo; ping -c 1 -W 2 127.0.0.1")
	lines := strings.Split(r.Stdout, "\n")
	if r.Status != 0 || lines[0] != "lo" || lines[1] != "0x9" || !strings.Contains(lines[2], "127.0.0.1/8") {
		t.Errorf("got %+v", r)
	}
}

// testExitTime checks that an exit's time is when the process ended.
func testExitTime(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	p := task.Exec(t, harness.Command{Args: []string{"sh", "-c", "sleep 1; date +%s"}}, harness.IO{})
	p.Start(t)
	p.Expect(t, "\n")
	exit := p.Wait(t, harness.Patience)
	if late := time.Since(exit.At); late < -2*time.Second || late > harness.Allow(5*time.Second) {
		t.Errorf("exited at %v, now it is %v", exit.At, time.Now())
	}
	var said int64
	if _, err := fmt.Sscan(p.Output(), &said); err != nil || said < exit.At.Unix()-2 || said > exit.At.Unix()+2 {
		t.Errorf("the process says it is %q, its exit's time is %d", p.Output(), exit.At.Unix())
	}
	p.Delete(t)
}

// running starts a container that runs until it is killed.
func running(t *testing.T, c *harness.Cell, options ...harness.Option) *harness.Task {
	t.Helper()
	options = append([]harness.Option{harness.Args("sleep", "100000")}, options...)
	task := c.Container(t, options...).Create(t, harness.IO{})
	task.Start(t)
	return task
}
