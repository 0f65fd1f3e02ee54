package volume

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const watched = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

// Watcher tells copies of changes on the host, by one inotify for all of a
// sandbox: there are few for a user, and the shims of all pods are one's.
type Watcher struct {
	f     *os.File
	raw   syscall.RawConn
	ended chan struct{}

	mu      sync.Mutex
	watches map[int]map[*watch]bool // who is told, by watch descriptor
}

// NewWatcher begins to watch nothing, until Close.
func NewWatcher() (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == unix.EMFILE {
		return nil, fmt.Errorf("inotify: %w: raise the sysctl fs.inotify.max_user_instances", err)
	}
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	w := &Watcher{f: os.NewFile(uintptr(fd), "inotify"), ended: make(chan struct{}), watches: map[int]map[*watch]bool{}}
	if w.raw, err = w.f.SyscallConn(); err != nil {
		w.f.Close()
		return nil, fmt.Errorf("inotify: %w", err)
	}
	go w.run()
	return w, nil
}

// Close ends the watching.
func (w *Watcher) Close() {
	w.f.Close()
	<-w.ended
}

// run tells of what happens until Close.
func (w *Watcher) run() {
	defer close(w.ended)
	_ = w.raw.Read(func(fd uintptr) bool {
		w.tell(int(fd))
		return false // so that it is called again when there is more
	})
}

// poll tells of what has happened up to now.
func (w *Watcher) poll() {
	_ = w.raw.Control(func(fd uintptr) { w.tell(int(fd)) })
}

func (w *Watcher) tell(fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			w.tellLocked(int(int32(binary.NativeEndian.Uint32(rest))), binary.NativeEndian.Uint32(rest[4:]))
			rest = rest[unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(rest[12:])):]
		}
	}
}

func (w *Watcher) tellLocked(descriptor int, mask uint32) {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		for _, watches := range w.watches {
			notify(watches)
		}
		return
	}
	notify(w.watches[descriptor])
	if mask&unix.IN_IGNORED != 0 {
		delete(w.watches, descriptor)
	}
}

func notify(watches map[*watch]bool) {
	for one := range watches {
		one.remind()
	}
}

// add has a watch told of changes in a directory, which it may be already.
func (w *Watcher) add(one *watch, dir *os.File) error {
	path := fmt.Sprintf("/proc/self/fd/%d", dir.Fd())
	w.mu.Lock()
	defer w.mu.Unlock()
	var descriptor int
	var err error
	if controlErr := w.raw.Control(func(fd uintptr) { descriptor, err = unix.InotifyAddWatch(int(fd), path, watched) }); controlErr != nil {
		return fmt.Errorf("watching %s: %w", dir.Name(), controlErr)
	}
	if err == unix.ENOSPC {
		return fmt.Errorf("watching %s: %w: raise the sysctl fs.inotify.max_user_watches", dir.Name(), err)
	}
	if err != nil {
		return fmt.Errorf("watching %s: %w", dir.Name(), err)
	}
	if w.watches[descriptor] == nil {
		w.watches[descriptor] = map[*watch]bool{}
	}
	w.watches[descriptor][one] = true
	return nil
}

// remove tells a watch nothing any more.
func (w *Watcher) remove(one *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for descriptor, watches := range w.watches {
		delete(watches, one)
		if len(watches) > 0 {
			continue
		}
		delete(w.watches, descriptor)
		_ = w.raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(descriptor)) })
	}
}
