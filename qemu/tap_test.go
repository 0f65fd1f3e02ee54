package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// testNet is a network namespace, and a thread that is in it.
type testNet struct {
	path string
	work chan func()
}

// newNet makes a network namespace that ends with the test.
func newNet(t *testing.T) *testNet {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make a network namespace")
	}
	n := &testNet{work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		err := unix.Unshare(unix.CLONE_NEWNET)
		n.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		made <- err
		for work := range n.work {
			work()
		}
	}()
	t.Cleanup(func() { close(n.work) })
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	return n
}

// do runs a function in the namespace.
func (n *testNet) do(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	n.work <- func() { done <- f() }
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// tap makes a tap that ends with the test, brings it up, and returns its queues and
// a socket that hears its frames of the experimental type.
func (n *testNet) tap(t *testing.T, name string, queues int) (files []*os.File, frames *os.File) {
	t.Helper()
	n.do(t, func() error {
		flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if queues > 1 {
			flags |= unix.IFF_MULTI_QUEUE
		}
		for range queues {
			f, err := openTap(name, flags)
			if err != nil {
				return err
			}
			t.Cleanup(func() { f.Close() })
			files = append(files, f)
		}
		var err error
		frames, err = listenFrames(name)
		if err == nil {
			t.Cleanup(func() { frames.Close() })
		}
		return err
	})
	return files, frames
}

func openTap(name string, flags uint16) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("make tap %s: %w", name, err)
	}
	return f, nil
}

func listenFrames(name string) (*os.File, error) {
	const experimental = 0xb588 // 0x88b5 in network order
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, experimental)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(s), name)
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_UP)
		err = unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request)
	}
	link, err2 := net.InterfaceByName(name)
	if err2 == nil {
		err2 = unix.Bind(s, &unix.SockaddrLinklayer{Protocol: experimental, Ifindex: link.Index})
	}
	if err := errors.Join(err, err2); err != nil {
		f.Close()
		return nil, fmt.Errorf("bring tap %s up: %w", name, err)
	}
	return f, nil
}
