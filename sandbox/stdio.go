package sandbox

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// Stdio says which of its standard streams a process has on the host. One that
// it does not have is /dev/null in the guest.
type Stdio struct {
	// Terminal makes stdin and stdout a terminal, and stderr its output too.
	Terminal              bool
	Stdin, Stdout, Stderr bool
}

// streams are the host's ends of a process's streams, nil where it has none.
type streams struct {
	stdin, stdout, stderr *stream
}

// stream is one of a process's file descriptors, under the id by which the guest
// knows it.
type stream struct {
	net.Conn
	id uint64
}

func (s *stream) name() uint64 {
	if s == nil {
		return 0
	}
	return s.id
}

// openStreams opens a process's streams, for which a guest has as long as for a call.
func (g *guest) openStreams(ctx context.Context, stdio Stdio) (streams, error) {
	ctx, cancel := boundCall(ctx, callTimeout)
	defer cancel()
	var all streams
	for _, s := range []struct {
		wanted bool
		end    **stream
	}{
		{stdio.Stdin, &all.stdin},
		{stdio.Stdout, &all.stdout},
		{stdio.Stderr && !stdio.Terminal, &all.stderr},
	} {
		if !s.wanted {
			continue
		}
		id := g.sandbox.nextStream.Add(1)
		conn, err := g.session.Open(ctx, channel.Header{Kind: channel.Stdio, ID: id})
		if err != nil {
			all.close()
			return streams{}, fmt.Errorf("opening the process's streams: %w: %w", err, errdefs.ErrUnavailable)
		}
		*s.end = &stream{Conn: conn, id: id}
	}
	return all, nil
}

func (s streams) close() {
	for _, end := range []*stream{s.stdin, s.stdout, s.stderr} {
		if end != nil {
			end.Close()
		}
	}
}

// request is how the agent is told of them.
func (s streams) request(stdio Stdio, process *specs.Process) *agentv1.Streams {
	r := &agentv1.Streams{
		Terminal: stdio.Terminal,
		Stdin:    s.stdin.name(),
		Stdout:   s.stdout.name(),
		Stderr:   s.stderr.name(),
	}
	if size := process.ConsoleSize; size != nil {
		r.Width, r.Height = uint32(size.Width), uint32(size.Height)
	}
	return r
}

// Stdin is where the process's input is written, nil if it has none. Its end is
// the process's end of file.
func (p *Process) Stdin() io.WriteCloser {
	if p.streams.stdin == nil {
		return nil
	}
	return p.streams.stdin
}

// Stdout is the process's output, nil if it has none. It ends when no process
// of the guest can write to it any more.
func (p *Process) Stdout() io.Reader { return p.streams.stdout.reader() }

// Stderr is as Stdout. A process with a terminal has none.
func (p *Process) Stderr() io.Reader { return p.streams.stderr.reader() }

func (s *stream) reader() io.Reader {
	if s == nil {
		return nil
	}
	return s
}
