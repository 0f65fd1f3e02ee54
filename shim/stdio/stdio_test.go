package stdio

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mkfifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// guest is the other end of a process's streams: what a test writes to out is
// the process's stdout, and so on.
type guest struct {
	*Stdio
	in       *os.File
	out, err *os.File
}

// open opens c and attaches a guest.
func open(t *testing.T, c Config) *guest {
	t.Helper()
	h := NewHost("ns")
	h.SetPatience(300 * time.Millisecond)
	s, err := h.Open(t.Context(), "id", c)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{Stdio: s}
	var stdin io.WriteCloser
	var stdout, stderr io.Reader
	var mine []*os.File
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		mine = append(mine, r, w)
		return r, w
	}
	wantIn, wantOut, wantErr := c.Streams()
	if wantIn {
		r, w := pipe()
		g.in, stdin = r, w
	}
	if wantOut {
		stdout, g.out = pipe()
	}
	if wantErr {
		stderr, g.err = pipe()
	}
	s.Attach(stdin, stdout, stderr)
	t.Cleanup(func() {
		for _, f := range mine {
			_ = f.Close()
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		h.Wait()
	})
	return g
}

func (g *guest) write(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

// drained waits for that much output.
func (g *guest) drained(t *testing.T, stdout, stderr uint64) {
	t.Helper()
	if err := g.Drain(t.Context(), stdout, stderr); err != nil {
		t.Fatalf("drain: %v", err)
	}
}

// result is what a goroutine of a test came to.
type result struct {
	data []byte
	err  error
}

func read(t *testing.T, r io.ReadCloser) <-chan result {
	ch := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(r)
		ch <- result{data, errors.Join(err, r.Close())}
	}()
	return ch
}

func get(t *testing.T, what string, ch <-chan result) []byte {
	t.Helper()
	select {
	case r := <-ch:
		if r.err != nil {
			t.Fatalf("%s: %v", what, r.err)
		}
		return r.data
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain: %s", what)
	}
	return nil
}

func openFile0(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestOutputIsWholeForAFifo(t *testing.T) {
	path := mkfifo(t)
	g := open(t, Config{Stdout: path})
	r := openFile0(t, path, os.O_RDONLY)
	out := read(t, r)
	in := make([]byte, 100<<20)
	if _, err := rand.Read(in); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = g.out.Write(in)
		_ = g.out.Close()
	}()
	if !bytes.Equal(get(t, "output", out), in) {
		t.Error("the output is not what was written")
	}
	g.drained(t, uint64(len(in)), 0)
}

func TestReaderMayComeLate(t *testing.T) {
	path := mkfifo(t)
	g := open(t, Config{Stdout: path})
	g.write(t, g.out, "early")
	_ = g.out.Close()
	if err := g.Drain(t.Context(), 5, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain without a reader: %v", err)
	}
	if out := get(t, "output", read(t, openFile0(t, path, os.O_RDONLY))); string(out) != "early" {
		t.Errorf("the late reader got %q", out)
	}
}

func TestReaderMayLeaveAndComeBack(t *testing.T) {
	path := mkfifo(t)
	g := open(t, Config{Stdout: path})
	r := openFile0(t, path, os.O_RDONLY)
	g.write(t, g.out, "one")
	buf := make([]byte, 3)
	if _, err := io.ReadFull(r, buf); err != nil || string(buf) != "one" {
		t.Fatalf("got %q, %v", buf, err)
	}
	_ = r.Close()
	g.write(t, g.out, "two")
	g.drained(t, 6, 0) // no SIGPIPE, no error: it is in the fifo
	r = openFile0(t, path, os.O_RDONLY)
	_ = g.out.Close()
	if out := get(t, "output", read(t, r)); string(out) != "two" {
		t.Errorf("the second reader got %q", out)
	}
}

func TestSlowIsNotStuck(t *testing.T) {
	path := mkfifo(t)
	g := open(t, Config{Stdout: path})
	r := openFile0(t, path, os.O_RDONLY)
	defer r.Close()
	const size = 128 << 10
	go func() {
		_, _ = g.out.Write(make([]byte, size))
		_ = g.out.Close()
	}()
	drained := make(chan result, 1)
	go func() { drained <- result{err: g.Drain(context.Background(), size, 0)} }()
	// A page at a time, more slowly in all than patience allows without any.
	pace := time.NewTicker(30 * time.Millisecond)
	defer pace.Stop()
	for buf := make([]byte, 4096); ; <-pace.C {
		if _, err := io.ReadFull(r, buf); err != nil {
			break
		}
	}
	get(t, "drain", drained)
}

func TestStuckReaderIsGivenUp(t *testing.T) {
	path := mkfifo(t)
	g := open(t, Config{Stdout: path})
	r := openFile0(t, path, os.O_RDONLY)
	defer r.Close()
	const size = 256 << 10
	written := make(chan result, 1)
	go func() {
		_, err := g.out.Write(make([]byte, size))
		written <- result{err: err}
	}()
	if err := g.Drain(t.Context(), size, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain: %v", err)
	}
	g.Discard()
	get(t, "the process's write", written)
	g.drained(t, size, 0)
}

// TestCrumbsDoNotHoldUpTheEnd has a guest say that a process wrote more than it did, and go
// on to send a byte at a time.
func TestCrumbsDoNotHoldUpTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPump("stdout", null{})
		r, w := io.Pipe()
		go p.run(t.Context(), r, &sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }})
		crumb := func() {
			if _, err := w.Write([]byte("x")); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Hour) // the process lives, and that it says nothing does not count
		crumb()
		if err := p.drain(t.Context(), 1, patience); err != nil {
			t.Errorf("of one that has written a byte: %v", err)
		}
		crumbs := make(chan struct{})
		go func() {
			defer close(crumbs)
			for range 10 {
				time.Sleep(patience - time.Second)
				crumb()
			}
			w.Close()
		}()
		begin := time.Now()
		if err := p.drain(t.Context(), 1<<60, patience); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("of one that gives out crumbs: %v", err)
		}
		if took := time.Since(begin); took > 2*patience {
			t.Errorf("that took %v", took)
		}
		<-crumbs
		<-p.ended
	})
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "dir", "log")
	for range 2 {
		g := open(t, Config{Stdout: "file://" + path, Stderr: "file://" + path})
		g.write(t, g.out, "out\n")
		g.drained(t, 4, 0)
		g.write(t, g.err, "err\n")
		g.drained(t, 4, 4)
	}
	if data, err := os.ReadFile(path); string(data) != "out\nerr\nout\nerr\n" {
		t.Errorf("the log holds %q (%v)", data, err)
	}
}

func TestFullDiskDoesNotHoldUpTheProcess(t *testing.T) {
	g := open(t, Config{Stdout: "file:///dev/full"})
	written := make(chan result, 1)
	go func() {
		_, err := g.out.Write(make([]byte, 1<<20))
		written <- result{err: err}
	}()
	get(t, "the process's write", written)
	g.drained(t, 1<<20, 0)
}

func TestTerminalWithoutOutputIsRead(t *testing.T) {
	g := open(t, Config{Terminal: true})
	g.write(t, g.out, "prompt")
	g.drained(t, 6, 0)
}

func TestStdinEndsOnCloseIO(t *testing.T) {
	path := mkfifo(t)
	g := open(t, Config{Stdin: path})
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Start(); err != nil { // again
		t.Fatal(err)
	}
	in := read(t, g.in)
	for _, text := range []string{"one ", "two"} {
		// Each writer leaves, as a containerd that restarts does.
		w := openFile0(t, path, os.O_WRONLY)
		g.write(t, w, text)
		_ = w.Close()
	}
	select {
	case <-in:
		t.Fatal("the process saw EOF when a writer left")
	case <-time.After(100 * time.Millisecond):
	}
	for range 2 {
		if err := g.CloseStdin(); err != nil {
			t.Fatal(err)
		}
	}
	if data := get(t, "stdin", in); string(data) != "one two" {
		t.Errorf("the process read %q", data)
	}
}

func TestStdinThatEndedBeforeTheStart(t *testing.T) {
	path := mkfifo(t)
	g := open(t, Config{Stdin: path})
	w := openFile0(t, path, os.O_WRONLY)
	g.write(t, w, "all")
	_ = w.Close()
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	if data := get(t, "stdin", read(t, g.in)); string(data) != "all" {
		t.Errorf("the process read %q", data)
	}
}

func TestStdinClosedBeforeTheStart(t *testing.T) {
	g := open(t, Config{Stdin: mkfifo(t)})
	if err := g.CloseStdin(); err != nil {
		t.Fatal(err)
	}
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	if data := get(t, "stdin", read(t, g.in)); len(data) != 0 {
		t.Errorf("the process read %q", data)
	}
}

func TestWriterLearnsThatNobodyReads(t *testing.T) {
	path := mkfifo(t)
	g := open(t, Config{Stdin: path})
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	w := openFile0(t, path, os.O_WRONLY)
	defer w.Close()
	_ = g.in.Close() // the process's end
	if err := g.CloseStdin(); err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 64<<10)
	for {
		if _, err := w.Write(chunk); err != nil {
			if !errors.Is(err, unix.EPIPE) {
				t.Errorf("the writer got %v", err)
			}
			return
		}
	}
}

func TestBadConfigs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"stdin is a file":        {Stdin: file},
		"stdout is a file":       {Stdout: file},
		"relative":               {Stdout: "out"},
		"unknown scheme":         {Stdout: "ftp:///x"},
		"no path":                {Stderr: "file://host"},
		"no URI":                 {Stdout: "file://%zz"},
		"logger without a path":  {Stdout: "binary://"},
		"second output is wrong": {Stdin: mkfifo(t), Stdout: mkfifo(t), Stderr: "x"},
	} {
		h := NewHost("ns")
		if _, err := h.Open(t.Context(), "id", c); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
		h.Wait()
	}
	h := NewHost("ns")
	if _, err := h.Open(t.Context(), "id", Config{Stdout: "/nowhere/fifo"}); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/nowhere/fifo") {
		t.Errorf("missing fifo: %v", err)
	}
}

func TestNothingIsLeftOpen(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	in, out := mkfifo(t), mkfifo(t)
	h := NewHost("ns")
	before := count()
	for range 10 {
		s, err := h.Open(t.Context(), "id", Config{Stdin: in, Stdout: out})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		s, err = h.Open(t.Context(), "id", Config{Stdin: in, Stdout: out})
		if err != nil {
			t.Fatal(err)
		}
		s.Attach(w, r, nil)
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		if err := s.Close(); err != nil { // no reader has ever come
			t.Fatal(err)
		}
		<-s.out.ended
		<-s.in.ended
		_ = r.Close()
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors were open before, %d are after", before, after)
	}
}
