package loopback

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// newNamespace is a network namespace, whose loopback is down.
func newNamespace(t *testing.T) *os.File {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make a network namespace")
	}
	type result struct {
		ns  *os.File
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // and ends with its thread
		err := unix.Unshare(unix.CLONE_NEWNET)
		var ns *os.File
		if err == nil {
			ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		made <- result{ns, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.ns.Close() })
	return r.ns
}

// dial connects as a process in the namespace does.
func dial(ns *os.File, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	dialled := make(chan result)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			dialled <- result{err: err}
			return
		}
		conn, err := net.DialTimeout(network, address, 5*time.Second)
		dialled <- result{conn, err}
	}()
	r := <-dialled
	return r.conn, r.err
}

func TestWhateverPortIsCaught(t *testing.T) {
	defer goleak.VerifyNone(t)
	ns := newNamespace(t)
	l, err := Listen(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct {
		network, address string
		port             uint16
	}{
		{"tcp4", "127.0.0.1:80", 80},
		{"tcp4", "127.4.5.6:65535", 65535},
		{"tcp6", "[::1]:8080", 8080},
	} {
		served := make(chan error, 1)
		go func() {
			conn, port, err := l.Accept()
			if err == nil {
				_, err = fmt.Fprintf(conn, "port %d", port)
				conn.Close()
			}
			served <- err
		}()
		conn, err := dial(ns, c.network, c.address)
		if err != nil {
			t.Fatalf("%s: %v", c.address, err)
		}
		got, err := io.ReadAll(conn)
		conn.Close()
		if want := fmt.Sprintf("port %d", c.port); string(got) != want || err != nil {
			t.Errorf("%s: got %q, %v", c.address, got, err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

func TestCloseLetsTheNamespaceBe(t *testing.T) {
	defer goleak.VerifyNone(t)
	ns := newNamespace(t)
	l, err := Listen(ns)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() {
		_, _, err := l.Accept()
		accepted <- err
	}()
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after the end: %v", err)
	}
	if conn, err := dial(ns, "tcp4", "127.0.0.1:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connected to %v, %v", conn, err)
	}
	// And it can be had again.
	again, err := Listen(ns)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
