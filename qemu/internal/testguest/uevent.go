//go:build linux

package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// deviceTimeout bounds the wait for a device to come or go.
const deviceTimeout = 20 * time.Second

// await waits until a state is reached that depends on the machine's devices. The
// kernel tells of their coming and going: that is listened for before the first look.
func await(reached func() (bool, error)) error {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.Bind(s, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return err
	}
	timeout := unix.NsecToTimeval(deviceTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return err
	}
	event := make([]byte, 16<<10)
	for {
		if ok, err := reached(); ok || err != nil {
			return err
		}
		if _, _, err := unix.Recvfrom(s, event, 0); err != nil {
			return fmt.Errorf("wait for a device: %w", err)
		}
	}
}
