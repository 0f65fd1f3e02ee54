package agent

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	portName    = "hyper.agent"
	portClass   = "/sys/class/virtio-ports"
	portTimeout = 30 * time.Second
)

// findPort returns the device of the virtio-serial port with our name. It waits
// for the kernel to announce it, until ctx ends.
func findPort(ctx context.Context, class string) (string, error) {
	dev := ""
	hint := fmt.Sprintf("no virtio-serial port is named %q: has the machine a virtserialport of that name, and the kernel its driver?", portName)
	err := awaitDevice(ctx, hint, func() (bool, error) {
		dev = lookupPort(class)
		return dev != "", nil
	})
	return dev, err
}

func lookupPort(class string) string {
	names, _ := filepath.Glob(class + "/*/name")
	for _, file := range names {
		name, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(name)) == portName {
			return "/dev/" + filepath.Base(filepath.Dir(file))
		}
	}
	return ""
}

// port is the virtio-serial port of the channel. It stays open as long as the
// guest lives; each session has a lease on it. With no host at the other end
// the device reads as ended: between sessions a lease waits for the host's
// first bytes instead.
type port struct {
	f   *os.File
	raw syscall.RawConn
	// broken is the error of a device that can be used no more.
	broken atomic.Pointer[error]
}

func openPort(path string) (*port, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the channel's port: %w", err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("opening the channel's port: %w", err)
	}
	// Fails where the device cannot be polled, and closing a lease then could
	// not wake its readers.
	if err := f.SetDeadline(time.Time{}); err != nil {
		f.Close()
		return nil, fmt.Errorf("the channel's port %s cannot be polled: %w", path, err)
	}
	return &port{f: f, raw: raw}, nil
}

// lease returns the port as the connection of one session. The lease before it
// must have been closed, and its users be gone.
func (p *port) lease() (io.ReadWriteCloser, error) {
	if err := p.broken.Load(); err != nil {
		return nil, *err
	}
	if err := p.f.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("preparing the channel's port: %w", err)
	}
	return &lease{port: p}, nil
}

type lease struct {
	port  *port
	close sync.Once
	live  bool // the host has been heard; used by Read only
}

func (l *lease) Read(buf []byte) (n int, err error) {
	if len(buf) == 0 {
		return 0, nil
	}
	rerr := l.port.raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), buf)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			return false
		case err == nil && n == 0:
			return l.live // ended, or not begun
		}
		return true
	})
	switch {
	case rerr != nil:
		return 0, rerr
	case err != nil:
		err = fmt.Errorf("reading the channel's port: %w", err)
		l.port.broken.Store(&err)
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	l.live = true
	return n, nil
}

func (l *lease) Write(buf []byte) (int, error) { return l.port.f.Write(buf) }

// Close wakes the lease's users. The port stays open.
func (l *lease) Close() (err error) {
	l.close.Do(func() { err = l.port.f.SetDeadline(time.Unix(1, 0)) })
	return err
}
