package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"
)

const (
	// patience is how long a reader may take no byte of an exited process's
	// output before the rest is given up.
	patience = 10 * time.Second
	// lastWords is how long Close waits for what is already on its way.
	lastWords = 250 * time.Millisecond
)

// Host opens the standard streams of a shim's processes.
type Host struct {
	namespace string
	patience  time.Duration
	buffers   sync.Pool
	loggers   sync.WaitGroup
}

// SetPatience sets how long a reader may take no byte of an exited process's
// output before the rest is given up; it is ten seconds otherwise.
func (h *Host) SetPatience(d time.Duration) { h.patience = d }

// NewHost returns a Host for processes of a containerd namespace.
func NewHost(namespace string) *Host {
	return &Host{namespace: namespace, patience: patience, buffers: sync.Pool{New: func() any {
		b := make([]byte, bufferSize)
		return &b
	}}}
}

// Wait returns when all loggers have ended: within seconds after the last
// Stdio was closed.
func (h *Host) Wait() { h.loggers.Wait() }

// Stdio is the host's end of one process's standard streams.
type Stdio struct {
	host    *Host
	ctx     context.Context // of the pumps; it carries the log
	cancel  context.CancelFunc
	in      *input // nil: none
	out     *pump
	err     *pump
	loggers map[string]*logger // by URI

	mu       sync.Mutex
	stdin    io.WriteCloser
	attached bool
	closed   bool
}

// Open opens what c names for the process id, before the process exists. ctx
// bounds the start of a logger. Nothing is left open when it fails.
func (h *Host) Open(ctx context.Context, id string, c Config) (_ *Stdio, err error) {
	s := &Stdio{host: h, loggers: make(map[string]*logger)}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	_, wantOut, wantErr := c.Streams()
	if c.Stdin != "" {
		if s.in, err = openInput(c.Stdin); err != nil {
			return nil, fmt.Errorf("stdin: %w", err)
		}
	}
	if wantOut {
		if s.out, err = s.open(ctx, id, "stdout", c.Stdout); err != nil {
			return nil, err
		}
	}
	if wantErr {
		if s.err, err = s.open(ctx, id, "stderr", c.Stderr); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Stdio) open(ctx context.Context, id, name, uri string) (*pump, error) {
	t, err := parseTarget(uri)
	if err != nil {
		return nil, err
	}
	var k sink
	switch t.scheme {
	case schemeNone:
		k = null{}
	case schemeFifo:
		k, err = openFifo(t.path)
	case schemeFile:
		k, err = openFile(t.path)
	default:
		k, err = s.openLogger(ctx, id, name, uri, t)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return newPump(name, k), nil
}

// openLogger gives both outputs of a process to one logger if they name it in
// the same way.
func (s *Stdio) openLogger(ctx context.Context, id, name, uri string, t target) (sink, error) {
	l, ok := s.loggers[uri]
	if !ok {
		var err error
		if l, err = startLogger(ctx, t, id, s.host.namespace); err != nil {
			return nil, err
		}
		s.loggers[uri] = l
	}
	if name == "stderr" {
		return &fileSink{l.stderr}, nil
	}
	return &fileSink{l.stdout}, nil
}

// Attach begins to copy a process's outputs. Each reader must be there if
// Config.Streams said so; they end with the process's streams. stdin is not
// read before Start.
func (s *Stdio) Attach(stdin io.WriteCloser, stdout, stderr io.Reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.attached {
		return
	}
	s.attached = true
	s.stdin = stdin
	if s.out != nil {
		go s.out.run(s.ctx, stdout, &s.host.buffers)
	}
	if s.err != nil {
		go s.err.run(s.ctx, stderr, &s.host.buffers)
	}
	for _, l := range s.loggers {
		s.host.loggers.Go(func() { s.endLogger(l) })
	}
}

// endLogger ends a logger when the outputs have.
func (s *Stdio) endLogger(l *logger) {
	for _, p := range s.pumps() {
		<-p.ended
	}
	// The one of an output that is not used.
	_ = l.stdout.Close()
	_ = l.stderr.Close()
	l.end(loggerFlush)
}

func (s *Stdio) pumps() []*pump {
	var ps []*pump
	for _, p := range []*pump{s.out, s.err} {
		if p != nil {
			ps = append(ps, p)
		}
	}
	return ps
}

// Start begins to copy stdin: the process runs.
func (s *Stdio) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil || s.stdin == nil || s.closed {
		return nil
	}
	return s.in.start(s.ctx, s.stdin, &s.host.buffers)
}

// CloseStdin lets the process see EOF once every writer has closed its stdin.
// It may be called at any time and again.
func (s *Stdio) CloseStdin() error {
	if s.in == nil {
		return nil
	}
	return s.in.closeIO()
}

// Drain returns when that many bytes of each output are written, or the stream
// has ended. It gives up, with context.DeadlineExceeded, on an output that nobody has
// read for ten seconds, and when ctx is done.
func (s *Stdio) Drain(ctx context.Context, stdout, stderr uint64) error {
	var outErr, errErr error
	if s.out != nil {
		outErr = s.out.drain(ctx, stdout, s.host.patience)
	}
	if s.err != nil {
		errErr = s.err.drain(ctx, stderr, s.host.patience)
	}
	return errors.Join(outErr, errErr)
}

// Stalled waits until no output has moved for ten seconds or so, and reports
// true; false when all output has ended, or ctx has.
func (s *Stdio) Stalled(ctx context.Context) bool {
	stalled := false
	for _, p := range s.pumps() {
		if err := p.drain(ctx, math.MaxUint64, s.host.patience); err != nil {
			stalled = true
		}
	}
	return stalled && ctx.Err() == nil
}

// Discard gives up on readers: output that is not written yet is lost, and the
// process is not held up by it any more.
func (s *Stdio) Discard() { s.cancel() }

// Close ends all copying and releases everything; the process's streams must
// have been closed. Output that is on its way has a moment to get out. It may be
// called again.
func (s *Stdio) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	attached := s.attached
	s.mu.Unlock()
	defer s.cancel()
	var err error
	if s.in != nil {
		err = s.in.close()
	}
	if attached {
		return errors.Join(err, s.settle())
	}
	for _, p := range s.pumps() {
		err = errors.Join(err, p.sink.close())
	}
	for _, l := range s.loggers {
		_ = l.stdout.Close()
		_ = l.stderr.Close()
		s.host.loggers.Go(func() { l.end(0) })
	}
	return err
}

// settle gives the pumps a moment, then interrupts those that still wait.
func (s *Stdio) settle() error {
	timer := time.AfterFunc(lastWords, s.cancel)
	defer timer.Stop()
	for _, p := range s.pumps() {
		select {
		case <-p.ended:
		case <-s.ctx.Done():
		}
	}
	return nil
}
