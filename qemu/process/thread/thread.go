// Package thread runs functions on threads that end with them, for what a thread
// does to itself and cannot undo: to enter a namespace, to give up capabilities, to
// be the parent of a process that is to die with it.
//
// It is never the process's first thread. That one cannot end, and /proc/<pid>
// shows its namespaces, mounts and capabilities as the process's.
package thread

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Go calls do in a goroutine of its own, on a thread that ends when do returns.
func Go(do func()) {
	go func() {
		// Never unlocked, but the first thread: the thread ends with the goroutine.
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			do()
			return
		}
		// While this goroutine has the first thread, the other gets another.
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(locked)
			do()
		}()
		<-locked
		runtime.UnlockOSThread()
	}()
}

// Do calls do as Go does, and returns what it has returned.
func Do(do func() error) error {
	done := make(chan error, 1)
	Go(func() { done <- do() })
	return <-done
}
