package process

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs f in a goroutine of its own on a thread of its own, which ends with f
// unless f unlocks it. It is never the main thread: that Go does not end, and what /proc
// says of this process is what it says of that.
func onThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// While this one has the main thread the other gets another.
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(locked)
			f()
		}()
		<-locked
		runtime.UnlockOSThread()
	}()
}
