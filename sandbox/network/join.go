package network

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxQueues is how many queues the kernel gives a tap.
const maxQueues = 256

// Join makes a tap with that many queues for a link of the namespace, and joins the
// two: what arrives at either leaves by the other. From then on the namespace's own
// stack hears nothing from the link.
//
// It is ErrNotFound if there is no such link, ErrAlreadyExists if it is joined
// already, and ErrNotImplemented if it carries no Ethernet frames.
func (n *Namespace) Join(link string, queues int) (*Tap, error) {
	if queues < 1 || queues > maxQueues {
		return nil, fmt.Errorf("joining %s by %d queues: a tap has 1 to %d: %w", link, queues, maxQueues, errdefs.ErrInvalidArgument)
	}
	tap := &Tap{namespace: n}
	err := n.use(func(h *netlink.Handle) error {
		if err := tap.join(h, link, queues); err != nil {
			return errors.Join(err, tap.takeBack(h))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("joining %s of the network namespace %s to a tap: %w", link, n.path, kindOf(err))
	}
	return tap, nil
}

// join does what Join says. What it did when it fails is in t.undo.
func (t *Tap) join(h *netlink.Handle, name string, queues int) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	if !isEthernet(link) {
		return fmt.Errorf("a %s link carries no Ethernet frames, which a guest's card needs: %w", link.Type(), errdefs.ErrNotImplemented)
	}
	if err := t.open(tapName(link.Attrs().Index), queues); err != nil {
		return err
	}
	tap, err := h.LinkByName(tapName(link.Attrs().Index))
	if err != nil {
		return err
	}
	if err := t.prepare(h, tap, link.Attrs().MTU); err != nil {
		return err
	}
	// The link comes last: until then its frames have where they went before.
	if err := t.redirect(h, tap, link); err != nil {
		return err
	}
	if err := t.refuseLoopback(h, tap); err != nil {
		return err
	}
	return t.redirect(h, link, tap)
}

// kindOf gives the kernel's word for what went wrong its kind.
func kindOf(err error) error {
	var notFound netlink.LinkNotFoundError
	switch {
	case errors.As(err, &notFound), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: %w", err, errdefs.ErrAlreadyExists)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	}
	return err
}
