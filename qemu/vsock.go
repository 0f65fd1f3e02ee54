package qemu

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

const (
	vhostVsockDevice = "/dev/vhost-vsock"
	// setGuestCID is VHOST_VSOCK_SET_GUEST_CID of linux/vhost.h.
	setGuestCID = 0x4008af60
	// Guests have ids from 3 to the last but one; the others have a meaning.
	firstCID = 3
	lastCID  = 1<<32 - 2
	// cidAttempts bounds the search for an id that no other machine has. Ids are
	// drawn from four billion, so the second attempt is already an odd event.
	cidAttempts = 64
	// anyCID lets a listener take connections on whatever id this host has.
	anyCID = 1<<32 - 1
)

// vsockAddress is where the agent of a machine calls.
type vsockAddress struct {
	// cid is the guest's context id.
	cid uint32
	// port is the host's port.
	port uint32
}

// openVhostVsock opens a vsock device for one machine and gives it a free context
// id. The error is os.ErrNotExist if this host has no such device.
func openVhostVsock() (*os.File, uint32, error) {
	f, err := os.OpenFile(vhostVsockDevice, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	cid, err := claimCID(func(cid uint64) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), setGuestCID, uintptr(unsafe.Pointer(&cid)))
		if errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("%s: %w", vhostVsockDevice, err)
	}
	return f, cid, nil
}

// claimCID draws context ids until claim takes one.
func claimCID(claim func(cid uint64) error) (uint32, error) {
	for range cidAttempts {
		cid := firstCID + rand.Uint64N(lastCID-firstCID+1)
		switch err := claim(cid); {
		case err == nil:
			return uint32(cid), nil
		case !errors.Is(err, unix.EADDRINUSE):
			return 0, fmt.Errorf("claim a context id: %w", err)
		}
	}
	return 0, fmt.Errorf("no free context id in %d attempts: %w", cidAttempts, errdefs.ErrResourceExhausted)
}

// vsockChannel waits for the agent of one machine to call.
type vsockChannel struct {
	listener *vsock.Listener
	address  vsockAddress
	taken    atomic.Bool
}

// listenVsock makes a channel for the guest of a context id, on a free port.
func listenVsock(cid uint32) (*vsockChannel, error) {
	l, err := vsock.ListenContextID(anyCID, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("listen for the agent on vsock: %w", err)
	}
	addr, ok := l.Addr().(*vsock.Addr)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("listen for the agent on vsock: address %v of an unknown kind", l.Addr())
	}
	return &vsockChannel{listener: l, address: vsockAddress{cid: cid, port: addr.Port}}, nil
}

// accept returns the first connection from the machine's own guest. Any guest of
// this host can call, so those of others are turned away.
func (c *vsockChannel) accept(ctx context.Context) (net.Conn, error) {
	if c.taken.Swap(true) {
		return nil, fmt.Errorf("%w: %w", errTaken, errdefs.ErrFailedPrecondition)
	}
	defer c.listener.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.listener.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		conn, err := c.listener.Accept()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil {
			if conn != nil {
				conn.Close()
			}
			return nil, fmt.Errorf("wait for the agent to call on vsock port %d: %w", c.address.port, err)
		}
		if peer, ok := conn.RemoteAddr().(*vsock.Addr); ok && peer.ContextID == c.address.cid {
			return conn, nil
		}
		conn.Close()
	}
}

func (c *vsockChannel) close() { c.listener.Close() }
