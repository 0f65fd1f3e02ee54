package channel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// ErrRefused says that the guest could not connect to the port: as a rule,
// because nothing listens there.
var ErrRefused = errors.New("the guest cannot connect to the port")

// The guest's answer to the header of a Forward stream, one byte.
const (
	connected = 0
	refused   = 1
)

// maxFrame is how many bytes a frame of a Conn is written with at most.
const maxFrame = 16 << 10

// frameHead is the length of a frame's data, big endian. A frame without data is
// the end of its direction.
const frameHead = 2

// Conn is a connection over a stream whose directions end each on its own, as
// those of a TCP connection: the end of one is a frame, and the stream's end
// without it says that the connection broke. Reads and writes may be concurrent,
// one of each.
type Conn struct {
	net.Conn // the stream
	left     int
	ended    bool // by the peer

	mu     sync.Mutex // of what follows: writing
	buf    []byte
	closed bool // for writing
}

// NewConn returns the connection that a Forward or Socket stream carries, which is the
// Conn's from then on.
func NewConn(stream net.Conn) *Conn { return &Conn{Conn: stream} }

// HalfCloser is a connection of which one direction can be ended.
type HalfCloser interface {
	io.Writer
	CloseWrite() error
}

// CopyHalf copies one direction of a connection, and its end.
func CopyHalf(dst HalfCloser, src io.Reader) error {
	// Without the shortcuts that io.Copy would take, which size their own buffers.
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, make([]byte, ChunkSize))
	if err != nil {
		return err
	}
	return dst.CloseWrite()
}

// Forward connects to a TCP port of the guest's loopback. It waits for the
// guest's answer until ctx ends; ErrRefused is one.
func (s *Session) Forward(ctx context.Context, port uint16) (*Conn, error) {
	stream, err := s.Open(ctx, Header{Kind: Forward, ID: uint64(port)})
	if err != nil {
		return nil, err
	}
	if err := readAnswer(ctx, stream); err != nil {
		stream.Close()
		return nil, fmt.Errorf("forwarding to port %d of the guest: %w", port, err)
	}
	return NewConn(stream), nil
}

// OpenSocket opens the stream of a connection that the guest told of, as Open does. Closing
// it unused tells the guest that the host could not connect.
func (s *Session) OpenSocket(ctx context.Context, id uint64) (*Conn, error) {
	stream, err := s.Open(ctx, Header{Kind: Socket, ID: id})
	if err != nil {
		return nil, err
	}
	return NewConn(stream), nil
}

// readAnswer reads the guest's answer until ctx ends.
func readAnswer(ctx context.Context, stream net.Conn) error {
	stop := context.AfterFunc(ctx, func() { stream.SetReadDeadline(time.Unix(1, 0)) })
	answer := make([]byte, 1)
	_, err := io.ReadFull(stream, answer)
	switch {
	case !stop():
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("reading the guest's answer: %w", err)
	case answer[0] == connected:
		return nil
	case answer[0] == refused:
		return ErrRefused
	}
	return fmt.Errorf("the guest answered %d", answer[0])
}

// AnswerForward tells the host whether the guest has connected a Forward stream.
func AnswerForward(stream net.Conn, ok bool) error {
	answer := []byte{connected}
	if !ok {
		answer[0] = refused
	}
	_, err := stream.Write(answer)
	return err
}

// Read reads what the peer wrote. io.EOF is the end that the peer has set to it;
// io.ErrUnexpectedEOF says that the connection broke.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.left == 0 && !c.ended {
		if err := c.readHead(); err != nil {
			return 0, err
		}
	}
	if c.ended {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, unexpected(err)
}

func (c *Conn) readHead() error {
	var head [frameHead]byte
	if _, err := io.ReadFull(c.Conn, head[:]); err != nil {
		return unexpected(err)
	}
	c.left = int(binary.BigEndian.Uint16(head[:]))
	if c.left == 0 {
		c.ended = true
		go c.awaitEnd()
	}
	return nil
}

// awaitEnd waits for the end of the stream, when nothing is to be read from it
// any more, and has a writer know: its window may never open again. Close ends it.
func (c *Conn) awaitEnd() {
	_, _ = c.Conn.Read(make([]byte, 1))
	c.Conn.Close()
}

// Close ends the connection, at once and in both directions: it is broken for
// the peer where it has not been ended in order. It wakes reads and writes.
func (c *Conn) Close() error {
	// A stream's own Close wakes no reader.
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
	return c.Conn.Close()
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Write writes p. After CloseWrite it is an error.
func (c *Conn) Write(p []byte) (written int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	for len(p) > 0 {
		n := min(len(p), maxFrame)
		if err := c.writeFrame(p[:n]); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// CloseWrite tells the peer that no more follows. It may be called again.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return c.writeFrame(nil)
}

func (c *Conn) writeFrame(data []byte) error {
	c.buf = binary.BigEndian.AppendUint16(c.buf[:0], uint16(len(data)))
	c.buf = append(c.buf, data...)
	_, err := c.Conn.Write(c.buf)
	return err
}
