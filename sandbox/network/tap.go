package network

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addressesByNobody is the mode of a link on which the kernel makes no IPv6
// address (IN6_ADDR_GEN_MODE_NONE).
const addressesByNobody = 1

// Tap is the device that carries a link's frames to a guest's card.
type Tap struct {
	// Queues are what QEMU reads and writes, with a virtio-net header before each
	// frame. The device goes with the last of them that is open, QEMU's included:
	// whoever is killed, no tap is left. They may be closed once QEMU has them.
	Queues []*os.File

	namespace *Namespace
	index     int

	mu   sync.Mutex
	undo []step // what remains to be undone, the last first
}

// step undoes one thing in the namespace.
type step func(*netlink.Handle) error

// open makes the device and opens its queues.
func (t *Tap) open(name string, queues int) error {
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	return t.namespace.inside(func() error {
		for i := range queues {
			exclusive := uint16(0)
			if i == 0 { // a device that is there already is somebody's
				exclusive = unix.IFF_TUN_EXCL
			}
			queue, err := openQueue(name, flags|exclusive)
			if err != nil {
				return fmt.Errorf("making the tap %s: %w", name, err)
			}
			t.Queues = append(t.Queues, queue)
		}
		return nil
	})
}

// openQueue opens one queue of a tap of the calling thread's namespace.
func openQueue(name string, flags uint16) (*os.File, error) {
	// Blocking, and so unknown to Go's poller, which would wake for each frame that
	// QEMU takes. QEMU changes that for itself.
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(flags)
		err = os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// prepare makes the new device ready to carry frames. Its MAC is a random one that
// the kernel made, and matters to nobody: the guest's card has the link's.
func (t *Tap) prepare(h *netlink.Handle, tap netlink.Link, mtu int) error {
	t.index = tap.Attrs().Index
	t.undo = append(t.undo, func(h *netlink.Handle) error { return h.LinkDel(tap) })
	if err := t.setMTU(h, mtu); err != nil {
		return err
	}
	// The namespace's own stack would greet the guest from an address of its own. A
	// kernel without IPv6 makes none.
	if err := h.LinkSetIP6AddrGenMode(tap, addressesByNobody); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("keeping addresses off the tap: %w", err)
	}
	if err := h.LinkSetUp(tap); err != nil {
		return fmt.Errorf("setting the tap up: %w", err)
	}
	return nil
}

// SetMTU sets the tap's MTU, in bytes, after its link's has changed.
func (t *Tap) SetMTU(mtu int) error {
	return t.namespace.use(func(h *netlink.Handle) error { return t.setMTU(h, mtu) })
}

func (t *Tap) setMTU(h *netlink.Handle, mtu int) error {
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Index: t.index}}
	if err := h.LinkSetMTU(tap, mtu); err != nil {
		return fmt.Errorf("setting the tap's MTU to its link's, %d: %w", mtu, err)
	}
	return nil
}

// Close parts the tap from its link and removes it. What is gone already, the link
// and the namespace included, counts as done, and it may be called again: after an
// error it continues where it stopped.
func (t *Tap) Close() error {
	err := t.namespace.use(t.takeBack)
	if errors.Is(err, errClosed) {
		err = closeAll(t.Queues)
	}
	if err != nil {
		return fmt.Errorf("removing a tap of the network namespace %s: %w", t.namespace.path, err)
	}
	return nil
}

// takeBack undoes in reverse what was done.
func (t *Tap) takeBack(h *netlink.Handle) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.undo) > 0 {
		last := len(t.undo) - 1
		if err := t.undo[last](h); err != nil && !isGone(err) {
			return err
		}
		t.undo = t.undo[:last]
	}
	return closeAll(t.Queues)
}

// isGone says whether there was nothing left to undo. EINVAL is the kernel's word
// for a queueing discipline that is not there.
func isGone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}
