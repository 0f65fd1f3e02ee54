package thread

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNeverTheFirst has no function run on the first thread, though it is free most
// of the time.
func TestNeverTheFirst(t *testing.T) {
	for range 2000 {
		err := Do(func() error {
			if unix.Gettid() == os.Getpid() {
				return errors.New("it runs on the process's first thread")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestManyAtOnce holds more threads than there were.
func TestManyAtOnce(t *testing.T) {
	const n = 50
	ids, hold := make(chan int), make(chan struct{})
	defer close(hold)
	for range n {
		Go(func() { ids <- unix.Gettid(); <-hold })
	}
	seen := map[int]bool{os.Getpid(): true}
	for range n {
		id := <-ids
		if seen[id] {
			t.Errorf("thread %d is the first one or another's", id)
		}
		seen[id] = true
	}
}

// TestThreadEnds has what a thread does to itself gone with it: here, a name.
func TestThreadEnds(t *testing.T) {
	tid := make(chan int)
	Go(func() { tid <- unix.Gettid() })
	gone := <-tid
	// The thread ends a moment after its function: the kernel says so by its pidfd.
	fd, err := unix.PidfdOpen(gone, unix.PIDFD_THREAD)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Skip("the kernel has no pidfd of a thread:", err)
	}
	defer unix.Close(fd)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); n != 1 {
		t.Errorf("the thread is there after 10 s: %v", err)
	}
}
