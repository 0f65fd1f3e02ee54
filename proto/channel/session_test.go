package channel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// socketPair is what a VM driver gives: a real socket, with the kernel's buffers.
func socketPair(t *testing.T) (host, guest net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

// unasked is of a guest that nobody probes.
func unasked() error { return nil }

// sessions connects both sides; the guest's streams go to handle.
func sessions(t *testing.T, handle func(Header, net.Conn)) *Session {
	t.Helper()
	hostEnd, guestEnd := socketPair(t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		guest, err := Accept(guestEnd, unasked)
		if err != nil {
			t.Errorf("guest: %v", err)
			return
		}
		guest.Serve(handle)
		guest.Close()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	host, err := Connect(ctx, hostEnd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		host.Close()
		<-served
	})
	return host
}

func TestStreamsCarryBytesAndTheirEnd(t *testing.T) {
	host := sessions(t, func(h Header, conn net.Conn) {
		defer conn.Close()
		if h.Kind != Stdio || h.ID != 7 {
			t.Errorf("header %+v", h)
		}
		io.Copy(conn, conn)
	})
	conn, err := host.Open(t.Context(), Header{Stdio, 7})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := make([]byte, 8<<20)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(want)
	var writer sync.WaitGroup
	writer.Go(func() {
		conn.Write(want)
		conn.Close()
	})
	got, err := io.ReadAll(conn)
	writer.Wait()
	if err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
		t.Fatalf("%d bytes came back of %d, err %v", len(got), len(want), err)
	}
}

func TestAReaderThatStopsStallsNoOtherStream(t *testing.T) {
	host := sessions(t, func(h Header, conn net.Conn) {
		defer conn.Close()
		if h.ID == 1 {
			conn.Write(make([]byte, 4<<20)) // nobody reads this
			return
		}
		io.Copy(conn, conn)
	})
	stuck, err := host.Open(t.Context(), Header{Stdio, 1})
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	for id := uint64(2); id < 20; id++ {
		conn, err := host.Open(t.Context(), Header{Stdio, id})
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		var pong [4]byte
		if _, err := io.ReadFull(conn, pong[:]); err != nil || string(pong[:]) != "ping" {
			t.Fatalf("stream %d: %q, %v", id, pong, err)
		}
		conn.Close()
	}
}

func TestASecondSessionOnTheSamePortIgnoresWhatIsLeftOfTheFirst(t *testing.T) {
	hostEnd, guestEnd := socketPair(t)
	// Left over: a torn frame, and a hello of another session.
	leftover := append([]byte{0xfe, 'h', 'y', 'p', 1, 2, 3}, hello{nonce: [16]byte{9}}.encode()...)
	if _, err := guestEnd.Write(append(leftover, helloMagic[:5]...)); err != nil {
		t.Fatal(err)
	}
	if _, err := hostEnd.Write(bytes.Repeat([]byte{0xfe, 'h'}, 500)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		guest, err := Accept(guestEnd, unasked)
		if err != nil {
			t.Errorf("guest: %v", err)
			return
		}
		guest.Serve(func(_ Header, conn net.Conn) { conn.Close() })
		guest.Close()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	host, err := Connect(ctx, hostEnd)
	if err != nil {
		t.Fatal(err)
	}
	host.Close()
	<-done
}

func TestConnectEndsWithItsContext(t *testing.T) {
	hostEnd, guestEnd := socketPair(t)
	defer guestEnd.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, hostEnd); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("err %v, want the context's", err)
	}
}

func TestConnectGivesUpOnAGuestThatBabbles(t *testing.T) {
	hostEnd, guestEnd := socketPair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(guestEnd, io.LimitReader(zeros{}, maxGarbage*2))
	}()
	if _, err := Connect(t.Context(), hostEnd); err == nil {
		t.Fatal("a session with a guest that never said hello")
	}
	guestEnd.Close()
	<-done
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestAStreamEndsWhenTheSessionDoes(t *testing.T) {
	host := sessions(t, func(_ Header, conn net.Conn) { io.Copy(io.Discard, conn) })
	conn, err := host.Open(t.Context(), Header{Stdio, 1})
	if err != nil {
		t.Fatal(err)
	}
	host.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("read from a stream of a closed session")
	}
	<-host.Done()
}

// answerHello is the guest's part until a session begins.
func answerHello(t *testing.T, guest net.Conn) {
	t.Helper()
	h, err := readHello(guest, maxGarbage)
	if err == nil {
		_, err = guest.Write(h.encode())
	}
	if err != nil {
		t.Errorf("guest: %v", err)
	}
}

func TestAGuestThatOpensAStreamEndsTheSession(t *testing.T) {
	hostEnd, guestEnd := socketPair(t)
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		answerHello(t, guestEnd)
		mux, err := yamux.Server(guestEnd, config())
		if err != nil {
			t.Errorf("guest: %v", err)
			return
		}
		defer mux.Close()
		_, _ = mux.OpenStream() // fails if the host is quick to hang up
		<-mux.CloseChan()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	host, err := Connect(ctx, hostEnd)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	select {
	case <-host.Done():
	case <-ctx.Done():
		t.Error("the session goes on")
	}
	host.Close()
	<-opened
}

func TestAGuestThatTakesNoStreamEndsTheSession(t *testing.T) {
	if have := config().StreamOpenTimeout; have != writeTimeout {
		t.Errorf("a guest has %v to take a stream", have)
	}
	host := silentGuest(t, 10*time.Millisecond)
	// The time may be over before the stream's header is written.
	if conn, err := host.Open(t.Context(), Header{Stdio, 1}); err == nil {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("read from a stream that was never taken")
		}
	}
	select {
	case <-host.Done():
	case <-time.After(10 * time.Second):
		t.Error("the session goes on")
	}
}

// silentGuest is the host's side of a session with a guest that reads and says nothing, and
// has so long to take a stream.
func silentGuest(t *testing.T, patience time.Duration) *Session {
	t.Helper()
	hostEnd, guestEnd := socketPair(t)
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(io.Discard, guestEnd) // until the host hangs up
		guestEnd.Close()
	}()
	c := config()
	c.StreamOpenTimeout = patience
	host, err := hostSession(hostEnd, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		host.Close()
		<-read
	})
	return host
}

// fill opens and closes as many streams as may lie untaken.
func fill(t *testing.T, host *Session) {
	t.Helper()
	for range backlog {
		conn, err := host.Open(t.Context(), Header{Stdio, 1})
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
}

func TestAGuestThatTakesNoStreamHoldsNobodyUp(t *testing.T) {
	host := silentGuest(t, time.Hour)
	fill(t, host)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := host.Open(ctx, Header{Stdio, 1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one more: %v", err)
	}
	select {
	case <-host.Done():
		t.Error("the session has ended with the caller's patience")
	default:
	}
}

func TestAGuestThatTakesNoStreamAnyMoreEndsTheSession(t *testing.T) {
	host := silentGuest(t, 200*time.Millisecond)
	fill(t, host)
	if _, err := host.Open(t.Context(), Header{Stdio, 1}); err == nil {
		t.Error("one more was opened")
	}
	select {
	case <-host.Done():
	case <-time.After(10 * time.Second):
		t.Error("the session goes on")
	}
	if err := host.Err(); err == nil || !strings.Contains(err.Error(), "no stream for 200ms") {
		t.Errorf("it has ended for %v", err)
	}
}

// TestAGuestThatIsSlowIsKept has a guest take a stream now and then, while others wait for
// longer than it may take none at all.
func TestAGuestThatIsSlowIsKept(t *testing.T) {
	host := silentGuest(t, 300*time.Millisecond)
	fill(t, host)
	waits := make(chan error, 1)
	go func() {
		_, err := host.Open(t.Context(), Header{Stdio, 1})
		waits <- err
	}()
	for range 6 {
		time.Sleep(100 * time.Millisecond)
		host.taken.Add(1) // one that another has waited for
	}
	select {
	case err := <-waits:
		t.Errorf("it is not waited for: %v", err)
	case <-host.Done():
		t.Error("the session has ended")
	default:
	}
	host.Close()
	<-waits
}

func TestAGuestThatReadsNothingHoldsNobodyUp(t *testing.T) {
	hostEnd, guestEnd := net.Pipe() // without a buffer
	defer guestEnd.Close()
	host, err := hostSession(hostEnd, config())
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := host.Open(ctx, Header{Stdio, 1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("opening: %v", err)
	}
}

func TestProbesComeBeforeASession(t *testing.T) {
	hostEnd, guestEnd := socketPair(t)
	probed, served := 0, make(chan struct{})
	go func() {
		defer close(served)
		guest, err := Accept(guestEnd, func() error { probed++; return nil })
		if err != nil {
			t.Errorf("guest: %v", err)
			return
		}
		guest.Serve(func(_ Header, conn net.Conn) { conn.Close() })
		guest.Close()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for range 2 {
		if err := Probe(ctx, hostEnd); err != nil {
			t.Fatal(err)
		}
	}
	host, err := Connect(ctx, hostEnd)
	if err != nil {
		t.Fatal(err)
	}
	host.Close()
	<-served
	if probed != 2 {
		t.Errorf("the guest was asked %d times whether it is fit", probed)
	}
}

func TestAGuestThatIsNotFitAnswersNoProbe(t *testing.T) {
	hostEnd, guestEnd := socketPair(t)
	failed := make(chan error, 1)
	unfit := errors.New("not fit")
	go func() {
		_, err := Accept(guestEnd, func() error { return unfit })
		failed <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := Probe(ctx, hostEnd); err == nil {
		t.Error("the guest answered")
	}
	if err := <-failed; !errors.Is(err, unfit) {
		t.Errorf("the guest's error: %v", err)
	}
	if _, err := hostEnd.Write([]byte{0}); err == nil {
		t.Error("the connection is open after a failed probe")
	}
}
