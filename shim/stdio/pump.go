package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
)

// bufferSize is what one copy holds: half of a pipe, so that reader and writer
// can work at the same time.
const bufferSize = 32 << 10

// pump copies one output of a process. Its goroutine ends when the stream does
// or, if the sink makes it wait, when its context is done.
type pump struct {
	name    string
	sink    sink
	written atomic.Uint64
	moved   chan struct{} // has a token when written has grown
	idle    idleTime      // of the process, not of the reader
	ended   chan struct{} // closed when the goroutine has ended
}

func newPump(name string, s sink) *pump {
	return &pump{name: name, sink: s, moved: make(chan struct{}, 1), ended: make(chan struct{})}
}

func (p *pump) run(ctx context.Context, src io.Reader, buffers *sync.Pool) {
	defer close(p.ended)
	defer func() {
		if err := p.sink.close(); err != nil {
			log.G(ctx).WithError(err).Warnf("close the destination of %s", p.name)
		}
	}()
	out := p.sink
	if err := out.ready(ctx); err != nil {
		p.failed(ctx, err)
		out = null{}
	}
	defer context.AfterFunc(ctx, out.interrupt)()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		begin := time.Now()
		n, err := src.Read(*buf)
		p.idle.add(begin, time.Now())
		if n > 0 {
			before := p.written.Load()
			if werr := out.write((*buf)[:n], p.wrote); werr != nil {
				p.failed(ctx, werr)
				out = null{}
				p.wrote(n - int(p.written.Load()-before))
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				log.G(ctx).WithError(err).Debugf("%s ended", p.name)
			}
			return
		}
	}
}

// wrote counts n bytes as taken.
func (p *pump) wrote(n int) {
	p.written.Add(uint64(n))
	select {
	case p.moved <- struct{}{}:
	default:
	}
}

func (p *pump) failed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		log.G(ctx).WithError(err).Warnf("%s can not be written any more, discarding the rest", p.name)
	}
}

// drain waits until want bytes are written or the stream has ended. It gives
// up, with context.DeadlineExceeded, when nothing was written for patience, and when the
// process has been waited for as long as that in all: it has ended, so what it wrote is on
// its way, and a guest that gives it out in crumbs must not hold up its end.
func (p *pump) drain(ctx context.Context, want uint64, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	p.idle.count(time.Now())
	for p.written.Load() < want {
		select {
		case <-p.ended:
			return nil
		case <-p.moved:
			timer.Reset(patience)
			if idle := p.idle.total(); idle > patience {
				return fmt.Errorf("%s: it was waited for %s, %d of %d bytes have come: %w",
					p.name, idle, p.written.Load(), want, context.DeadlineExceeded)
			}
		case <-timer.C:
			return fmt.Errorf("%s: nobody read it for %s, %d of %d bytes are written: %w",
				p.name, patience, p.written.Load(), want, context.DeadlineExceeded)
		case <-ctx.Done():
			return fmt.Errorf("%s: drain: %w", p.name, context.Cause(ctx))
		}
	}
	return nil
}
