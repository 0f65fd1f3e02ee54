package volume

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// quietTime is how long nothing must happen for a change to be over, and
	// longestChange how long that is waited for.
	quietTime     = 10 * time.Millisecond
	longestChange = 200 * time.Millisecond
)

const watched = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

// watch tells that something has changed in one of the directories it was given.
// A nil one tells nothing.
type watch struct{ f *os.File }

func newWatch() (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == unix.EMFILE {
		return nil, fmt.Errorf("inotify: %w: raise the sysctl fs.inotify.max_user_instances", err)
	}
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return &watch{os.NewFile(uintptr(fd), "inotify")}, nil
}

func (w *watch) close() {
	if w != nil {
		w.f.Close()
	}
}

// add watches a directory, which it may do already.
func (w *watch) add(dir *os.File) error {
	if w == nil {
		return nil
	}
	path := fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	var err error
	if controlErr := w.control(func(fd int) { _, err = unix.InotifyAddWatch(fd, path, watched) }); controlErr != nil {
		return controlErr
	}
	if err != nil {
		return fmt.Errorf("watching %s: %w", dir.Name(), err)
	}
	return nil
}

// drain forgets what has happened, and says whether something had.
func (w *watch) drain() bool {
	if w == nil {
		return false
	}
	happened, buf := false, make([]byte, 4096)
	_ = w.control(func(fd int) {
		for {
			if n, err := unix.Read(fd, buf); err != nil || n <= 0 {
				return
			}
			happened = true
		}
	})
	return happened
}

func (w *watch) control(do func(fd int)) error {
	raw, err := w.f.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { do(int(fd)) })
	}
	if err != nil {
		return fmt.Errorf("using inotify: %w", err)
	}
	return nil
}

// wait waits until something has happened and nothing more does. It fails when
// ctx ends.
func (w *watch) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, w.close)
	defer stop()
	buf := make([]byte, 4096)
	if _, err := w.f.Read(buf); err != nil {
		return fmt.Errorf("reading inotify: %w", err)
	}
	limit := time.Now().Add(longestChange)
	for time.Now().Before(limit) && ctx.Err() == nil {
		if err := w.f.SetReadDeadline(time.Now().Add(quietTime)); err != nil {
			return fmt.Errorf("reading inotify: %w", err)
		}
		if _, err := w.f.Read(buf); err != nil {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.f.SetReadDeadline(time.Time{})
}
