package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// sink is where one output goes.
type sink interface {
	// ready waits until the sink takes bytes, or ctx is done.
	ready(ctx context.Context) error
	// write writes all of p and reports each part of it that is written. It
	// ends early, with an error, when the sink fails or is interrupted.
	write(p []byte, wrote func(n int)) error
	// interrupt makes a write that waits, and those to come, fail.
	interrupt()
	// close releases the sink. Nothing may be using it any more.
	close() error
}

// null discards.
type null struct{}

func (null) ready(context.Context) error             { return nil }
func (null) write(p []byte, wrote func(n int)) error { wrote(len(p)); return nil }
func (null) interrupt()                              {}
func (null) close() error                            { return nil }

// fileSink writes to a file, or to a pipe whose other end is always there.
type fileSink struct{ file *os.File }

// openFile opens a log file to append to, and makes its directory.
func openFile(path string) (*fileSink, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the log file: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log file: %w", err)
	}
	return &fileSink{f}, nil
}

func (s *fileSink) ready(context.Context) error             { return nil }
func (s *fileSink) write(p []byte, wrote func(n int)) error { return writeParts(s.file, p, wrote) }
func (s *fileSink) interrupt()                              { interrupt(s.file) }
func (s *fileSink) close() error                            { return s.file.Close() }

// fifoSink writes to a fifo, whose reader may come late and may come again.
type fifoSink struct {
	fifo *fifo
	file *os.File // the write side, once there is a reader
	hold *os.File // the read side, never read: it spares us EPIPE
}

func openFifo(path string) (*fifoSink, error) {
	f, err := findFifo(path)
	if err != nil {
		return nil, err
	}
	return &fifoSink{fifo: f}, nil
}

func (s *fifoSink) ready(ctx context.Context) (err error) {
	if s.file, err = s.fifo.openWriter(ctx); err != nil {
		return err
	}
	s.hold, err = s.fifo.open(os.O_RDONLY | unix.O_NONBLOCK)
	return err
}

func (s *fifoSink) write(p []byte, wrote func(n int)) error { return writeParts(s.file, p, wrote) }

// interrupt is called only once ready has returned.
func (s *fifoSink) interrupt() { interrupt(s.file) }

func (s *fifoSink) close() error {
	err := s.fifo.close()
	for _, f := range []*os.File{s.file, s.hold} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}
