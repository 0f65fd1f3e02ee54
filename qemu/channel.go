package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// channel is the host's side of the way to the agent.
type channel interface {
	// accept waits for the byte stream to the agent, as long as ctx allows.
	accept(ctx context.Context) (net.Conn, error)
	// close releases what accept has not handed out, and ends an accept.
	close()
}

// errTaken is the error of an accept after the first.
var errTaken = errors.New("the channel has been taken")

// serialChannel is a virtio-serial port. QEMU keeps what is written to it until
// the guest opens the port, so there is nothing to wait for.
type serialChannel struct {
	mu   sync.Mutex
	conn net.Conn // nil once it is handed out or closed
}

func (c *serialChannel) accept(context.Context) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil, fmt.Errorf("%w: %w", errTaken, errdefs.ErrFailedPrecondition)
	}
	conn := c.conn
	c.conn = nil
	return conn, nil
}

func (c *serialChannel) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// socketPair returns a connection and the other end of it, for QEMU to inherit.
func socketPair(name string) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket for the %s: %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make a socket for the %s: %w", name, err)
	}
	return conn, theirs, nil
}
