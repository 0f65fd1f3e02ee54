package agent

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/containerd/errdefs"
)

// forker runs functions that start processes, each on one of a few threads that
// never end. A thread's children go to the main thread when it ends, and would
// be reaped there before their owner could wait for them; and Go ends threads,
// among them those that libcontainer uses to enter namespaces.
type forker struct {
	jobs  chan func()
	slots chan struct{}
}

// maxForks is how many processes are being started at once.
const maxForks = 8

func newForker() *forker {
	return &forker{jobs: make(chan func()), slots: make(chan struct{}, maxForks)}
}

// do runs f on a thread of the forker and returns its error. A panic of f is one.
func (k *forker) do(f func() error) (err error) {
	done := make(chan struct{})
	job := func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("panic: %v\n%s: %w", r, debug.Stack(), errdefs.ErrInternal)
			}
		}()
		err = f()
	}
	select {
	case k.jobs <- job:
	default:
		select {
		case k.jobs <- job:
		case k.slots <- struct{}{}:
			go k.thread(job)
		}
	}
	<-done
	return err
}

// thread runs jobs on its own thread as long as the forker is.
func (k *forker) thread(job func()) {
	runtime.LockOSThread()
	// Only a closed forker gets here, in tests: the thread lives on.
	defer runtime.UnlockOSThread()
	job()
	for job := range k.jobs {
		job()
	}
}

// close ends the threads' loops. No do may be under way, or follow.
func (k *forker) close() { close(k.jobs) }
