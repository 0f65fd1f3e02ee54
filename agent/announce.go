package agent

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openAnnouncements listens to what the kernel announces to groups, a bit mask,
// of a netlink protocol. What it says matters less to its callers than that
// something has changed: they look for themselves, and first of all once more,
// after this.
func openAnnouncements(protocol int, groups uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket for the kernel's announcements: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("binding a netlink socket for the kernel's announcements: %w", err)
	}
	return os.NewFile(uintptr(fd), "announcements"), nil
}

// awaitDevice looks for a device whenever the kernel announces one, until look has
// found it or fails, or ctx ends. hint is what to look at if it never comes.
func awaitDevice(ctx context.Context, hint string, look func() (found bool, err error)) error {
	if found, err := look(); found || err != nil {
		return err
	}
	// Listen first, look second: what appears in between is announced.
	events, err := openAnnouncements(unix.NETLINK_KOBJECT_UEVENT, 1)
	if err != nil {
		return err
	}
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()
	// What the kernel says does not matter, only that something changed.
	buf := make([]byte, 8<<10)
	for {
		if found, err := look(); found || err != nil {
			return err
		}
		if _, err := events.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("%s (%w)", hint, errors.Join(err, context.Cause(ctx)))
		}
	}
}
