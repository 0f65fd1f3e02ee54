package channel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"testing/synctest"
	"time"
)

// forwardTo has the guest accept each forwarded connection and give it to serve.
func forwardTo(t *testing.T, serve func(*Conn)) *Conn {
	t.Helper()
	host := sessions(t, func(h Header, stream net.Conn) {
		if h.Kind != Forward || h.ID != 80 {
			t.Errorf("header %+v", h)
		}
		if err := AnswerForward(stream, true); err != nil {
			t.Error(err)
		}
		conn := NewConn(stream)
		defer conn.Close()
		serve(conn)
	})
	conn, err := host.Forward(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func TestEachDirectionOfAConnEndsOnItsOwn(t *testing.T) {
	sent := bytes.Repeat([]byte("0123456789abcdef"), 40000)
	conn := forwardTo(t, func(c *Conn) {
		// The answer begins when the question has ended.
		question, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(question, sent) {
			t.Errorf("the guest got %d bytes, %v", len(question), err)
		}
		c.Write(question)
		if err := errors.Join(c.CloseWrite(), c.CloseWrite()); err != nil {
			t.Error(err)
		}
		if _, err := c.Write([]byte("more")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after the end: %v", err)
		}
		c.Read(make([]byte, 1))
	})
	if _, err := conn.Write(sent); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(answer, sent) {
		t.Errorf("the host got %d bytes, %v", len(answer), err)
	}
}

func TestAConnThatBreaksHasNoEnd(t *testing.T) {
	conn := forwardTo(t, func(c *Conn) { c.Write([]byte("half an ans")) })
	got, err := io.ReadAll(conn)
	if string(got) != "half an ans" || err != io.ErrUnexpectedEOF {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAWriterLearnsThatThePeerHasGone(t *testing.T) {
	conn := forwardTo(t, func(c *Conn) {
		c.CloseWrite()
		c.Read(make([]byte, 1))
		// And goes, with most of it unread.
	})
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	var err error
	for err == nil {
		_, err = conn.Write(make([]byte, 64<<10))
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Error("the writer waited for a window that nobody opens")
	}
}

func TestCloseWakesAReader(t *testing.T) {
	conn := forwardTo(t, func(c *Conn) { io.Copy(io.Discard, c) })
	read := make(chan error)
	go func() { _, err := conn.Read(make([]byte, 1)); read <- err }()
	conn.Close()
	if err := <-read; err == nil {
		t.Error("a read of a closed connection succeeded")
	}
}

func TestForwardIsRefused(t *testing.T) {
	host := sessions(t, func(h Header, stream net.Conn) {
		defer stream.Close()
		switch h.ID {
		case 1:
			AnswerForward(stream, false)
		case 2:
			stream.Write([]byte{99})
		case 3: // no answer
		case 4:
			stream.Read(make([]byte, 1)) // late: the host gives up
		}
	})
	if _, err := host.Forward(t.Context(), 1); !errors.Is(err, ErrRefused) {
		t.Errorf("refused: %v", err)
	}
	for _, port := range []uint16{2, 3} {
		if _, err := host.Forward(t.Context(), port); err == nil || errors.Is(err, ErrRefused) {
			t.Errorf("port %d: %v", port, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := host.Forward(ctx, 4); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
}

// aloneVariable is set in a process that runs one test and no other.
const aloneVariable = "HYPER_TEST_ALONE"

// TestWhatWasClosedWaitsForItsReader has a reader come an hour after the end. It
// has a process of its own: the multiplexer keeps timers for later use, and those
// of other tests have another clock.
func TestWhatWasClosedWaitsForItsReader(t *testing.T) {
	if os.Getenv(aloneVariable) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), aloneVariable+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	synctest.Test(t, func(t *testing.T) {
		hostEnd, guestEnd := net.Pipe()
		read := make(chan string)
		go func() {
			guest, err := Accept(guestEnd, unasked)
			if err != nil {
				t.Error(err)
				return
			}
			defer guest.Close()
			guest.Serve(func(_ Header, stream net.Conn) {
				defer stream.Close()
				time.Sleep(time.Hour)
				got, _ := io.ReadAll(stream)
				read <- string(got)
			})
		}()
		host, err := Connect(t.Context(), hostEnd)
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		stream, err := host.Open(t.Context(), Header{Stdio, 1})
		if err != nil {
			t.Fatal(err)
		}
		stream.Write([]byte("input"))
		stream.Close()
		if got := <-read; got != "input" {
			t.Errorf("got %q", got)
		}
	})
}

// byteConn is a stream that holds some bytes.
type byteConn struct {
	net.Conn // none
	r        *bytes.Reader
}

func (b byteConn) Read(p []byte) (int, error)      { return b.r.Read(p) }
func (b byteConn) SetReadDeadline(time.Time) error { return nil }
func (b byteConn) Close() error                    { return nil }

func FuzzReadConn(f *testing.F) {
	f.Add([]byte{0, 1, 'a', 0, 2, 'b', 'c', 0, 0})
	f.Add([]byte{0, 0})
	f.Add([]byte{255, 255, 'a'})
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := io.ReadAll(NewConn(byteConn{r: bytes.NewReader(data)}))
		if err != nil && err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
		var want []byte
		rest, ended := data, false
		for len(rest) >= frameHead && !ended {
			n := int(rest[0])<<8 | int(rest[1])
			rest = rest[frameHead:]
			ended = n == 0
			n = min(n, len(rest))
			want, rest = append(want, rest[:n]...), rest[n:]
		}
		if !bytes.Equal(got, want) || ended != (err == nil) {
			t.Fatalf("%x gave %x, %v", data, got, err)
		}
	})
}
