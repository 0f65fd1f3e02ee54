package agent

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/proto/channel"
)

const (
	copySize = channel.ChunkSize
	// ttyBacklog is more than a pseudo terminal can hold that was written and
	// not yet read: its flip buffers (64 KiB) and its read buffer (4 KiB).
	ttyBacklog = 128 << 10
)

// output copies what a process and its children write into one file descriptor
// to its stream, and knows when all that the process itself wrote is there.
//
// The process's end is told by exited, which wakes the copier: what is in the
// pipe then is all that the process can have left there. Once that is sent the
// output is settled; copying goes on for children that still hold the pipe.
type output struct {
	src *os.File
	raw syscall.RawConn
	dst outStream
	tty bool

	settle  sync.Once
	settled chan struct{} // closed when count is final
	count   uint64        // bytes sent; read by others only once settled
	ended   chan struct{} // closed when the copier has returned
}

// outStream is the stream that output goes to; net.Conn has it all.
type outStream interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// newOutput takes over src, which can be polled, and dst, except that a
// terminal stays its owner's to close.
func newOutput(src *os.File, dst outStream, tty bool) (*output, error) {
	raw, err := src.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &output{
		src: src, raw: raw, dst: dst, tty: tty,
		settled: make(chan struct{}), ended: make(chan struct{}),
	}, nil
}

// start begins to copy, until all writers are gone or close is called.
func (o *output) start() { go o.run() }

// exited tells that the process whose output this is has ended.
func (o *output) exited() { _ = o.src.SetReadDeadline(time.Unix(1, 0)) }

// close ends the copying that was started, and returns when it has ended.
// Output of children that is still in the pipe is lost.
func (o *output) close() {
	o.src.Close()
	past := time.Unix(1, 0)
	_ = o.dst.SetWriteDeadline(past) // a host that does not read cannot hold the copier
	<-o.ended
}

// abandon closes both ends of an output that was never started.
func (o *output) abandon() {
	o.src.Close()
	o.dst.Close()
}

// watchHost gives the stream up when the host closes its side: nobody reads
// what is written from then on, and a write would wait forever.
func (o *output) watchHost(done chan<- struct{}) {
	defer close(done)
	buf := make([]byte, 1)
	for {
		_, err := o.dst.Read(buf) // the host sends nothing here
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return // by run's wish
		}
		if err != nil {
			_ = o.dst.SetWriteDeadline(time.Unix(1, 0))
			return
		}
	}
}

func (o *output) run() {
	w := &sink{w: o.dst}
	watched := make(chan struct{})
	go o.watchHost(watched)
	finish := func() {
		o.settle.Do(func() {
			o.count = w.sent
			close(o.settled)
		})
	}
	defer close(o.ended)
	defer func() {
		_ = o.dst.SetReadDeadline(time.Unix(1, 0))
		<-watched
		o.dst.Close()
		if !o.tty {
			o.src.Close()
		}
	}()
	defer finish()
	buf := make([]byte, copySize)
	for {
		n, err := o.src.Read(buf)
		w.write(buf[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = o.drain(w, buf)
			finish()
			_ = o.src.SetReadDeadline(time.Time{})
		}
		if err != nil {
			return // EOF; EIO on a terminal that nobody has open any more
		}
	}
}

// drain copies what is in the pipe now without waiting for more. It is bounded
// by what the pipe held at the beginning, or a child that goes on writing would
// keep it here. It returns an error only at the end of the output.
func (o *output) drain(w *sink, buf []byte) error {
	left := o.pending()
	for left > 0 {
		var n int
		var err error
		cerr := o.raw.Control(func(fd uintptr) {
			for n, err = unix.Read(int(fd), buf); err == unix.EINTR; {
				n, err = unix.Read(int(fd), buf)
			}
		})
		switch {
		case cerr != nil:
			return cerr
		case err == unix.EAGAIN:
			return nil
		case err != nil:
			return err
		case n == 0:
			return io.EOF
		}
		w.write(buf[:n])
		left -= n
	}
	return nil
}

// pending is at least the number of bytes which are in the pipe.
func (o *output) pending() (n int) {
	if o.tty {
		// The kernel moves written bytes to where they can be counted only later,
		// yet before it lets a read say that there are none.
		return ttyBacklog
	}
	_ = o.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n
}

// sink counts what w takes. Once w fails, the rest is dropped: a process must
// not hang, nor die of SIGPIPE, because its reader went away.
type sink struct {
	w    io.Writer
	sent uint64
	dead bool
}

func (s *sink) write(p []byte) {
	if s.dead || len(p) == 0 {
		return
	}
	n, err := s.w.Write(p)
	s.sent += uint64(n)
	s.dead = err != nil
}
