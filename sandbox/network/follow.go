package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// settleTime is how long changes are gathered after the first one: a CNI plugin
// makes a dozen in a row.
const settleTime = 10 * time.Millisecond

// Follow calls changed with what Read says at first, and again whenever Read says
// something else, until ctx ends; then it returns ctx's error. Nothing that happens
// after the first call is missed, be it while changed runs, and what makes no
// difference to the guest (our own taps, what the kernel learns of its neighbours)
// makes no call. changed is called by the caller's goroutine, one call at a time.
//
// A link that was replaced is another, by its index, though it looks the same: it has
// no tap.
func (n *Namespace) Follow(ctx context.Context, changed func(virtcontainers.Network)) error {
	events, err := n.subscribe()
	if err != nil {
		return err
	}
	defer events.Close()
	// A read that waits ends when its socket is closed.
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()

	known, err := n.Read()
	if err != nil {
		return err
	}
	changed(known)
	for {
		if err := awaitEvents(events); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("following the network namespace %s: %w", n.path, err)
		}
		now, err := n.Read()
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(now, known) {
			changed(now)
		}
		known = now
	}
}

// subscribe opens a socket that can be read when something may have changed.
func (n *Namespace) subscribe() (*os.File, error) {
	var events *os.File
	err := n.use(func(*netlink.Handle) error {
		return n.inside(func() (err error) {
			events, err = eventSocket()
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("subscribing to changes of the network namespace %s: %w", n.path, err)
	}
	return events, nil
}

// eventSocket is a socket that gets what the kernel says about the network of the
// calling thread.
func eventSocket() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_NEIGH |
		unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE |
		unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "network events"), nil
}

// awaitEvents waits for an event, and then takes those of the next settleTime with
// it. What an event says does not matter, nor that some were lost: the tables are
// read after it.
func awaitEvents(events *os.File) error {
	buf := make([]byte, 4096) // the rest of a longer event is dropped
	if err := events.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if err := readEvent(events, buf); err != nil {
		return err
	}
	if err := events.SetReadDeadline(time.Now().Add(settleTime)); err != nil {
		return err
	}
	for {
		if err := readEvent(events, buf); errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func readEvent(events *os.File, buf []byte) error {
	_, err := events.Read(buf)
	if errors.Is(err, unix.ENOBUFS) { // events were lost: one as well
		return nil
	}
	return err
}
