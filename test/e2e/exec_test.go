package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/test/harness"
)

// testExecsAtOnce runs several processes in one container at the same time.
func testExecsAtOnce(t *testing.T, c *harness.Cell) {
	const n = 8
	task := running(t, c)
	var execs [n]*harness.Task
	var errs [n]error
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			input := strings.Repeat(fmt.Sprintf("line of %d\n", i), 1000)
			execs[i], errs[i] = task.TryExec(t, harness.Command{Args: []string{"sh", "-c", fmt.Sprintf("sort | uniq -c; exit %d", i)}}, harness.IO{Stdin: strings.NewReader(input)})
			if errs[i] == nil {
				errs[i] = execs[i].TryStart(t)
			}
		})
	}
	all.Wait()
	for i, p := range execs {
		if errs[i] != nil {
			t.Errorf("exec %d: %v", i, errs[i])
			continue
		}
		if r := p.Finish(t); r.Status != uint32(i) || strings.TrimSpace(r.Stdout) != fmt.Sprintf("1000 line of %d", i) {
			t.Errorf("exec %d: %+v", i, r)
		}
	}
}

// testExecErrors asks for what cannot be.
func testExecErrors(t *testing.T, c *harness.Cell) {
	task := running(t, c)

	p := task.Exec(t, harness.Command{Args: []string{"no-such-command"}}, harness.IO{})
	if err := p.TryStart(t); err == nil || !strings.Contains(err.Error(), `exec: "no-such-command": executable file not found in $PATH`) {
		t.Errorf("a missing command: %v", err)
	}
	if _, err := p.TryDelete(t); err != nil {
		t.Errorf("deleting an exec that did not start: %v", err)
	}

	sleeper := task.Exec(t, harness.Command{ID: "twice", Args: []string{"sleep", "1000"}}, harness.IO{})
	if _, err := task.TryExec(t, harness.Command{ID: "twice", Args: []string{"true"}}, harness.IO{}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("an id used twice: %v", err)
	}
	sleeper.Start(t)
	if _, err := task.TryExec(t, harness.Command{ID: "twice", Args: []string{"true"}}, harness.IO{}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("an id used twice while the first runs: %v", err)
	}
	if err := sleeper.TryStart(t); err == nil {
		t.Error("a process was started twice")
	}
	if _, err := sleeper.TryDelete(t); err == nil || c.Runtime == harness.RuntimeHyper && !errdefs.IsFailedPrecondition(err) {
		t.Errorf("deleting a process that runs: %v", err)
	}
	if err := sleeper.Kill(t, 15, false); err != nil {
		t.Errorf("killing: %v", err)
	}
	if r := sleeper.Finish(t); r.Status != 128+15 {
		t.Errorf("got %+v", r)
	}
	if _, err := sleeper.TryDelete(t); !errdefs.IsNotFound(err) {
		t.Errorf("deleting twice: %v", err)
	}
	// The id is free again.
	again := task.Exec(t, harness.Command{ID: "twice", Args: []string{"echo", "again"}}, harness.IO{})
	again.Start(t)
	if r := again.Finish(t); r.Stdout != "again\n" {
		t.Errorf("got %+v", r)
	}
}

// testExecKilledAtOnce signals processes that have just been started: a signal that comes
// while a process becomes its program must not be lost.
func testExecKilledAtOnce(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	for i := range 30 {
		p := task.Exec(t, harness.Command{Args: []string{"sleep", "1000"}}, harness.IO{})
		p.Start(t)
		time.Sleep(time.Duration(i) * 400 * time.Microsecond)
		if err := p.Kill(t, 15, false); err != nil {
			t.Errorf("killing: %v", err)
		}
		if r := p.Finish(t); r.Status != 128+15 {
			t.Fatalf("got %+v", r)
		}
	}
}

// testExecInStopped adds a process to a container whose init has ended.
func testExecInStopped(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	if err := task.Kill(t, 9, false); err != nil {
		t.Fatal(err)
	}
	task.Wait(t, harness.Patience)
	p, err := task.TryExec(t, harness.Command{Args: []string{"true"}}, harness.IO{})
	if err == nil {
		err = p.TryStart(t)
	}
	if err == nil {
		t.Error("a process runs in a stopped container")
	} else if c.Runtime == harness.RuntimeHyper && !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v, want a failed precondition", err)
	}
}

// testNeverStarted deletes what was created and never started.
func testNeverStarted(t *testing.T, c *harness.Cell) {
	task := running(t, c)
	p := task.Exec(t, harness.Command{Args: []string{"true"}}, harness.IO{StdinPipe: true})
	if state, err := p.State(t); err != nil || state.Status.String() != "CREATED" {
		t.Errorf("its state: %v, %v", state, err)
	}
	if _, err := p.TryDelete(t); err != nil {
		t.Errorf("deleting an exec: %v", err)
	}
	created := c.Container(t).Create(t, harness.IO{})
	if state, err := created.State(t); err != nil || state.Status.String() != "CREATED" {
		t.Errorf("its state: %v, %v", state, err)
	}
	if err := created.Kill(t, 9, true); err != nil {
		t.Errorf("killing a created task: %v", err)
	}
	if exit := created.Wait(t, harness.Patience); exit.Status != 137 {
		t.Errorf("it exited %d", exit.Status)
	}
	created.Delete(t)
}
