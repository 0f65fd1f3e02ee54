package agent

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// inotify tells of files that are modified.
type inotify struct{ f *os.File }

func newInotify() (*inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return &inotify{os.NewFile(uintptr(fd), "inotify")}, nil
}

// add watches a file and returns the number of its events.
func (i *inotify) add(path string) (wd int, err error) {
	raw, err := i.f.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("watching %s: %w", path, err)
	}
	cerr := raw.Control(func(fd uintptr) {
		wd, err = unix.InotifyAddWatch(int(fd), path, unix.IN_MODIFY)
	})
	if err := firstError(cerr, err); err != nil {
		return 0, fmt.Errorf("watching %s: %w", path, err)
	}
	return wd, nil
}

// remove ends the watch wd.
func (i *inotify) remove(wd int) {
	raw, err := i.f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(wd)) })
}

// next waits for events and returns the numbers of the files that were
// modified. It fails once close has been called.
func (i *inotify) next() ([]int, error) {
	buf := make([]byte, 4096)
	n, err := i.f.Read(buf)
	if err != nil {
		return nil, fmt.Errorf("reading inotify: %w", err)
	}
	return modified(buf[:n]), nil
}

// modified parses struct inotify_events.
func modified(buf []byte) (wds []int) {
	for len(buf) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(buf))
		mask := binary.NativeEndian.Uint32(buf[4:])
		name := uint64(binary.NativeEndian.Uint32(buf[12:]))
		if mask&unix.IN_MODIFY != 0 {
			wds = append(wds, int(wd))
		}
		if name > uint64(len(buf)-unix.SizeofInotifyEvent) {
			break
		}
		buf = buf[unix.SizeofInotifyEvent+int(name):]
	}
	return wds
}

func (i *inotify) close() { i.f.Close() }
