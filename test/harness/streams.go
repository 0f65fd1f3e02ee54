package harness

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/fifo"
	"golang.org/x/sys/unix"
)

// IO says what a process's standard streams are. Its zero value gives no
// standard input and collects both outputs.
type IO struct {
	// Terminal gives the process a terminal; all output is then standard output.
	Terminal bool
	// Stdin is copied to the process; at its end standard input is closed.
	Stdin io.Reader
	// StdinPipe leaves writing to the test: see Streams.Stdin.
	StdinPipe bool
	// Stdout and Stderr get the output, instead of being collected.
	Stdout, Stderr io.Writer
	// StdoutURI and StderrURI are given to containerd as they are, in the place
	// of fifos: "file://…", "binary://…".
	StdoutURI, StderrURI string
	// None asks for no stream at all.
	None bool
}

// Streams are the host's ends of a process's standard streams.
type Streams struct {
	// Stdin is to be written and closed by the test, with IO.StdinPipe.
	Stdin io.WriteCloser

	stdin, stdout, stderr string // what containerd is told
	out, err              *Buffer
	copies                sync.WaitGroup
	fifos                 []io.Closer
	cancel                context.CancelFunc

	source     io.Reader
	closeStdin func() error // asks containerd to close standard input
}

func newStreams(t T, c *Cell, name string, o IO) *Streams {
	t.Helper()
	s := &Streams{out: newBuffer(), err: newBuffer(), stdout: o.StdoutURI, stderr: o.StderrURI}
	dir := filepath.Join(c.Dir, "fifo", fmt.Sprintf("%s-%d", name, c.serial.Add(1)))
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	t.Cleanup(func() {
		s.abandon()
		os.RemoveAll(dir)
	})
	if o.None {
		return s
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatalf("making fifos: %v", err)
	}
	open := func(stream string, flags int) (string, io.ReadWriteCloser) {
		path := filepath.Join(dir, stream)
		f, err := fifo.OpenFifo(ctx, path, flags|unix.O_CREAT|unix.O_NONBLOCK, 0o600)
		if err != nil {
			t.Fatalf("making a fifo: %v", err)
		}
		s.fifos = append(s.fifos, f)
		return path, f
	}
	if o.Stdin != nil || o.StdinPipe {
		var f io.ReadWriteCloser
		s.stdin, f = open("stdin", unix.O_WRONLY)
		s.Stdin = &stdin{fifo: f, streams: s}
		s.source = o.Stdin
	}
	if s.stdout == "" {
		var f io.ReadWriteCloser
		s.stdout, f = open("stdout", unix.O_RDONLY)
		s.copy(either(o.Stdout, s.out), f)
	}
	if s.stderr == "" && !o.Terminal {
		var f io.ReadWriteCloser
		s.stderr, f = open("stderr", unix.O_RDONLY)
		s.copy(either(o.Stderr, s.err), f)
	}
	return s
}

func either(given io.Writer, collected *Buffer) io.Writer {
	if given != nil {
		return given
	}
	return collected
}

func (s *Streams) copy(w io.Writer, f io.ReadCloser) {
	s.copies.Add(1)
	go func() {
		defer s.copies.Done()
		defer f.Close()
		io.Copy(w, f)
		if b, ok := w.(*Buffer); ok {
			b.end()
		}
	}()
}

// begin lets standard input flow, once there is a task to close it on: an end
// that came before would be lost.
func (s *Streams) begin(closeStdin func() error) {
	s.closeStdin = closeStdin
	if s.source == nil {
		return
	}
	go func() {
		io.Copy(s.Stdin, s.source)
		s.Stdin.Close()
	}()
}

// stdin is a fifo whose closing is also told to containerd, as ctr does it.
type stdin struct {
	fifo    io.WriteCloser
	streams *Streams
}

func (i *stdin) Write(b []byte) (int, error) { return i.fifo.Write(b) }

func (i *stdin) Close() error {
	err := i.fifo.Close()
	// A process that has ended has no standard input to close: no error then.
	i.streams.closeStdin()
	return err
}

// abandon closes the streams, whatever is still in them.
func (s *Streams) abandon() {
	s.cancel()
	for _, f := range s.fifos {
		f.Close()
	}
	s.copies.Wait()
}

// Collect returns the whole output. A stream that does not end soon, now that
// its process is deleted, fails the test.
func (s *Streams) Collect(t T) (stdout, stderr string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		s.copies.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(Slowly(Soon)):
		t.Fatalf("the output did not end; so far: %q and %q", s.out.String(), s.err.String())
	}
	return s.out.String(), s.err.String()
}

// Output is what has come on standard output so far.
func (s *Streams) Output() string { return s.out.String() }

// Expect waits until standard output has a text in it and returns everything so
// far; if the output ends or time runs out before, the test fails.
func (s *Streams) Expect(t T, text string) string {
	t.Helper()
	return s.out.expect(t, text)
}

// ExpectError is Expect for standard error.
func (s *Streams) ExpectError(t T, text string) string {
	t.Helper()
	return s.err.expect(t, text)
}

// Buffer collects what is written to it.
type Buffer struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	ended bool
	more  chan struct{} // closed and renewed when something comes
}

func newBuffer() *Buffer { return &Buffer{more: make(chan struct{})} }

// Write appends.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Write(p)
	close(b.more)
	b.more = make(chan struct{})
	return len(p), nil
}

func (b *Buffer) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	close(b.more)
	b.more = make(chan struct{})
}

// String is what has been written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// dropThrough forgets everything up to the end of a text that is there.
func (b *Buffer) dropThrough(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := strings.Index(b.buf.String(), text); i >= 0 {
		b.buf.Next(i + len(text))
	}
}

func (b *Buffer) expect(t T, text string) string {
	t.Helper()
	timeout := time.After(patienceOf(t) / 2)
	for {
		b.mu.Lock()
		have, ended, more := b.buf.String(), b.ended, b.more
		b.mu.Unlock()
		if strings.Contains(have, text) {
			return have
		}
		if ended {
			t.Fatalf("the output ended without %q: %q", text, have)
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("no %q in the output in time: %q", text, have)
		}
	}
}
