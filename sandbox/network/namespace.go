package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/process/thread"
)

// requestTimeout bounds a request to the kernel. It answers in microseconds, but
// may have to load a module first.
const requestTimeout = 10 * time.Second

// Namespace is a network namespace, held open. Its methods may be called at the
// same time.
type Namespace struct {
	path string

	mu      sync.Mutex
	file    *os.File
	netlink *netlink.Handle // nil once closed: a closed handle would speak to the host's network
}

// Open opens the network namespace at path, which /proc/self/fd/N may be as well.
// It is ErrNotFound if there is nothing, ErrInvalidArgument if it is something
// else, and ErrFailedPrecondition if it is the caller's own: a guest never shares
// the host's network, and a link of the host that is joined is lost to the host.
func Open(path string) (*Namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
		}
		return nil, fmt.Errorf("opening the network namespace: %w", err)
	}
	n := &Namespace{path: path, file: file}
	if err := n.check(); err != nil {
		file.Close()
		return nil, err
	}
	if err := n.inside(n.connect); err != nil {
		file.Close()
		return nil, err
	}
	return n, nil
}

// check refuses what is no network namespace, and the caller's own.
func (n *Namespace) check() error {
	kind, err := unix.IoctlRetInt(int(n.file.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%s is no network namespace: %w", n.path, errdefs.ErrInvalidArgument)
	}
	own, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("looking at the host's network namespace: %w", err)
	}
	info, err := n.file.Stat()
	if err != nil {
		return fmt.Errorf("looking at the network namespace %s: %w", n.path, err)
	}
	if os.SameFile(own, info) {
		return fmt.Errorf("%s is the host's own network, which no guest can share: %w", n.path, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// connect opens the netlink socket. It is called in the namespace, to which the
// socket then belongs wherever it is used.
func (n *Namespace) connect() error {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("opening a netlink socket in the network namespace %s: %w", n.path, err)
	}
	if err := handle.SetSocketTimeout(requestTimeout); err != nil {
		handle.Close()
		return fmt.Errorf("bounding netlink requests: %w", err)
	}
	n.netlink = handle
	return nil
}

// Close lets go of the namespace. It may be called again. Taps that are still open
// keep their devices; a later Tap.Close only closes their files.
func (n *Namespace) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.netlink == nil {
		return nil
	}
	n.netlink.Close()
	n.netlink = nil
	return n.file.Close()
}

// errClosed is what every use of a closed namespace ends with.
var errClosed = fmt.Errorf("the network namespace is closed: %w", errdefs.ErrFailedPrecondition)

// use gives do the namespace's netlink socket, and keeps others from it meanwhile.
func (n *Namespace) use(do func(*netlink.Handle) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.netlink == nil {
		return errClosed
	}
	return do(n.netlink)
}

// inside calls do on a thread that has entered the namespace, and ends there.
func (n *Namespace) inside(do func() error) error {
	return thread.Do(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering the network namespace %s: %w", n.path, err)
		}
		return do()
	})
}
