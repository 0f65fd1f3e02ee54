package agent

import (
	"os"

	"golang.org/x/sys/unix"
)

// reap reaps the calling thread's own children, now and each time that sigchld
// says that a child of the process has ended, until sigchld is closed. It is
// called on the main thread: that is where the kernel puts orphans, and nothing
// else. Children that other threads started are left to those who wait for them.
func reap(sigchld <-chan os.Signal) {
	for {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG|unix.WALL|unix.WNOTHREAD, nil)
			if err == unix.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
		}
		if _, ok := <-sigchld; !ok {
			return
		}
	}
}
