package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// fifo is a named pipe that can be opened more than once even when its name is
// gone: clients remove it as soon as they have opened it.
type fifo struct {
	name   string
	handle *os.File // O_PATH
}

func findFifo(name string) (*fifo, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open fifo", Path: name, Err: err}
	}
	f := &fifo{name: name, handle: os.NewFile(uintptr(fd), name)}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(&os.PathError{Op: "stat fifo", Path: name, Err: err}, f.close())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil, errors.Join(fmt.Errorf("%s is not a fifo: %w", name, errdefs.ErrInvalidArgument), f.close())
	}
	return f, nil
}

// open opens the fifo; without O_NONBLOCK it may wait for the other end.
func (f *fifo) open(flags int) (*os.File, error) {
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.handle.Fd()), flags, 0)
	if err != nil {
		return nil, fmt.Errorf("open fifo %s: %w", f.name, err)
	}
	return file, nil
}

// openWriter waits until the fifo has a reader or ctx is done.
func (f *fifo) openWriter(ctx context.Context) (*os.File, error) {
	w, err := f.open(os.O_WRONLY | unix.O_NONBLOCK)
	if !errors.Is(err, unix.ENXIO) {
		return w, err
	}
	type opened struct {
		file *os.File
		err  error
	}
	// The open blocks in the kernel: there is no event for a reader's coming.
	result := make(chan opened, 1)
	go func() {
		file, err := f.open(os.O_WRONLY)
		result <- opened{file, err}
	}()
	select {
	case o := <-result:
		return o.file, o.err
	case <-ctx.Done():
	}
	// A reader of our own lets the blocked open return.
	r, err := f.open(os.O_RDONLY | unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	o := <-result
	err = errors.Join(context.Cause(ctx), r.Close())
	if o.file != nil {
		err = errors.Join(err, o.file.Close())
	}
	return nil, fmt.Errorf("wait for a reader of fifo %s: %w", f.name, err)
}

func (f *fifo) close() error { return f.handle.Close() }

// abandoned reports whether a fifo that is open for reading has had writers
// since, and they have all gone. It must have no writer of our own.
func abandoned(r *os.File) (bool, error) {
	raw, err := r.SyscallConn()
	if err != nil {
		return false, fmt.Errorf("look at fifo %s: %w", r.Name(), err)
	}
	var gone bool
	var perr error
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		_, perr = unix.Poll(fds, 0)
		gone = fds[0].Revents&unix.POLLHUP != 0
	})
	return gone, errors.Join(err, perr)
}
