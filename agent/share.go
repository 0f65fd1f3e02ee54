package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// shareTimeout bounds the wait for a share's device. A machine that was cloned is
// given it while it runs, and the kernel may find it a moment later than the host
// asks to mount it.
const shareTimeout = 15 * time.Second

// mountShare mounts a virtio-fs device, for whose announcement by the kernel it
// waits, until ctx ends.
func mountShare(ctx context.Context, m *agentv1.Mount) error {
	err := mount(m)
	if !errors.Is(err, unix.EINVAL) {
		return err // or EINVAL: there is no device of this tag
	}
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
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
		err := mount(m)
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
		if _, lost := events.Read(buf); lost != nil && !errors.Is(lost, unix.ENOBUFS) {
			return fmt.Errorf("%w: has the machine a virtio-fs device of this tag, and the kernel its driver? (%w)",
				err, errors.Join(lost, context.Cause(ctx)))
		}
	}
}
