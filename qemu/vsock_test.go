package qemu

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

func TestClaimCID(t *testing.T) {
	var tried []uint64
	cid, err := claimCID(func(cid uint64) error {
		tried = append(tried, cid)
		if len(tried) < 5 {
			return unix.EADDRINUSE
		}
		return nil
	})
	if err != nil || len(tried) != 5 || uint64(cid) != tried[4] {
		t.Errorf("claimCID() = %d, %v after %d", cid, err, tried)
	}
	for _, c := range tried {
		if c < firstCID || c > lastCID {
			t.Errorf("tried %d", c)
		}
	}
	if _, err := claimCID(func(uint64) error { return unix.EADDRINUSE }); !errdefs.IsResourceExhausted(err) {
		t.Errorf("with none free: %v", err)
	}
	if _, err := claimCID(func(uint64) error { return unix.EPERM }); !errors.Is(err, unix.EPERM) {
		t.Errorf("not allowed: %v", err)
	}
}

func listen(t *testing.T, cid uint32) *vsockChannel {
	t.Helper()
	c, err := listenVsock(cid)
	if err != nil {
		t.Skipf("this kernel has no vsock: %v", err)
	}
	t.Cleanup(c.close)
	return c
}

func TestVsockAcceptEnds(t *testing.T) {
	c := listen(t, 77)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("accept() = %v", err)
	}
	if _, err := c.accept(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a second accept() = %v", err)
	}

	closed := listen(t, 77)
	time.AfterFunc(20*time.Millisecond, closed.close)
	if _, err := closed.accept(t.Context()); err == nil {
		t.Error("accept() of a closed channel succeeded")
	}
}

// TestVsockPeers calls from this host's own context id.
func TestVsockPeers(t *testing.T) {
	c := listen(t, vsock.Local)
	caller, err := vsock.Dial(vsock.Local, c.address.port, nil)
	if err != nil {
		t.Skipf("this kernel has no vsock loopback: %v", err)
	}
	defer caller.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := c.accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()

	other := listen(t, 77)
	stranger, err := vsock.Dial(vsock.Local, other.address.port, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if conn, err := other.accept(ctx); err == nil {
		t.Errorf("a stranger was let in: %v", conn.RemoteAddr())
	}
	if _, err := stranger.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the stranger's connection: %v", err)
	}
}
