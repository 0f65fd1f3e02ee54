package agent

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel gives orphans to the main thread, which reaps those and no child
// of another thread: exec.Cmd always gets its child's status, whatever ends at
// the same time, and no zombie is left.
func TestReaperTakesOrphansOnly(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"=reaper")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

const (
	reaperWorkers = 8
	reaperRounds  = 40
)

// reaperHelper is a process that takes orphans in, as PID 1 does.
func reaperHelper() int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Println(err)
		return 1
	}
	sigchld := make(chan os.Signal, 1)
	signal.Notify(sigchld, unix.SIGCHLD)
	k := newForker()
	var failed error
	go func() {
		failed = forkAll(k)
		// The last orphans end now at the latest: their end is a signal too.
		signal.Stop(sigchld)
		close(sigchld)
	}()
	reap(sigchld)
	if failed != nil {
		fmt.Println(failed)
		return 1
	}
	reapRest()
	if left := children(); len(left) != 0 {
		fmt.Println("zombies left:", left)
		return 1
	}
	return 0
}

// forkAll starts many children that leave orphans behind, and checks that each
// child's own status is there to be waited for.
func forkAll(k *forker) error {
	var wg sync.WaitGroup
	errs := make(chan error, reaperWorkers*reaperRounds)
	for worker := range reaperWorkers {
		wg.Go(func() {
			for round := range reaperRounds {
				want := (worker*reaperRounds + round) % 200
				// Two orphans: one that ends before its parent, at a guess, and one after.
				cmd := exec.Command("/bin/sh", "-c", fmt.Sprintf("(true &); (sleep 0.01 &); exit %d", want))
				if err := k.do(cmd.Start); err != nil {
					errs <- err
					return
				}
				// The status is all that matters of the error.
				err := cmd.Wait()
				if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want {
					errs <- fmt.Errorf("want status %d, got %v (%v)", want, cmd.ProcessState, err)
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// reapRest waits for the orphans that still run.
func reapRest() {
	for {
		if _, err := unix.Wait4(-1, nil, unix.WALL|unix.WNOTHREAD, nil); err == unix.ECHILD {
			return
		}
	}
}

func children() []string {
	list, _ := os.ReadFile("/proc/self/task/" + strconv.Itoa(os.Getpid()) + "/children")
	return strings.Fields(string(list))
}
