package agent

import (
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
