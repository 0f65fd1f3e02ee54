package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// testPort is a port on a fifo, which reads as ended while nobody writes, as
// the device does while the host is not there.
func testPort(t *testing.T) (p *port, fifo string) {
	t.Helper()
	fifo = testFIFO(t)
	f, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return &port{f: f, raw: raw}, fifo
}

func TestLeaseWaitsForTheHostAndEndsWithIt(t *testing.T) {
	defer goleak.VerifyNone(t)
	p, fifo := testPort(t)
	for range 2 { // two sessions
		l, err := p.lease()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(20 * time.Millisecond) // the lease is waiting
			os.WriteFile(fifo, []byte("hello"), 0)
		}()
		if got, err := io.ReadAll(l); err != nil || string(got) != "hello" {
			t.Errorf("%q %v", got, err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestLeaseCloseWakesItsReader(t *testing.T) {
	defer goleak.VerifyNone(t)
	p, _ := testPort(t)
	l, err := p.lease()
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { l.Close() })
	if _, err := l.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

func TestLookupPort(t *testing.T) {
	class := t.TempDir()
	for dir, name := range map[string]string{"vport1p1": "other", "vport2p1": portName} {
		if err := os.Mkdir(filepath.Join(class, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(class, dir, "name"), []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := findPort(t.Context(), class); err != nil || got != "/dev/vport2p1" {
		t.Errorf("%q %v", got, err)
	}
}

func TestFindPortGivesUp(t *testing.T) {
	defer goleak.VerifyNone(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := findPort(ctx, t.TempDir()); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
