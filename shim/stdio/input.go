package stdio

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// input is a process's stdin.
type input struct {
	fifo  *fifo
	ended chan struct{} // closed when the copy has ended, or will never begin

	mu      sync.Mutex
	read    *os.File
	hold    *os.File // the write side; while it is open there is no EOF
	closed  bool     // CloseIO was called
	started bool
}

func openInput(path string) (*input, error) {
	f, err := findFifo(path)
	if err != nil {
		return nil, err
	}
	r, err := f.open(os.O_RDONLY | unix.O_NONBLOCK)
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return &input{fifo: f, read: r, ended: make(chan struct{})}, nil
}

// start begins to copy to dst, once.
func (i *input) start(ctx context.Context, dst io.WriteCloser, buffers *sync.Pool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.started {
		return nil
	}
	gone, err := abandoned(i.read)
	if err != nil {
		return err
	}
	if !gone && !i.closed {
		if i.hold, err = i.fifo.open(os.O_WRONLY | unix.O_NONBLOCK); err != nil {
			return err
		}
	}
	i.started = true
	go i.copy(ctx, dst, buffers)
	return nil
}

func (i *input) copy(ctx context.Context, dst io.WriteCloser, buffers *sync.Pool) {
	defer close(i.ended)
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	// The wrappers keep io.CopyBuffer to our buffer.
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{i.read}, *buf)
	if err != nil && !errors.Is(err, os.ErrClosed) {
		log.G(ctx).WithError(err).Debug("stdin ended")
	}
	if err := dst.Close(); err != nil {
		log.G(ctx).WithError(err).Debug("close the process's stdin")
	}
	// Whoever still writes learns that nobody reads.
	_ = i.read.Close()
}

// closeIO lets the process see EOF once all writers have gone.
func (i *input) closeIO() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	hold := i.hold
	i.hold = nil
	if hold == nil {
		return nil
	}
	return hold.Close()
}

// close ends the copy and releases the fifo. A write to the process that waits
// ends with the process's stream only.
func (i *input) close() error {
	err := i.closeIO()
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.started {
		i.started = true
		close(i.ended)
	}
	if cerr := i.read.Close(); cerr != nil && !errors.Is(cerr, os.ErrClosed) {
		err = errors.Join(err, cerr)
	}
	if cerr := i.fifo.close(); cerr != nil && !errors.Is(cerr, os.ErrClosed) {
		err = errors.Join(err, cerr)
	}
	return err
}
