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
	ctx, cancel := context.WithTimeout(ctx, shareTimeout)
	defer cancel()
	var failed error
	err := awaitDevice(ctx, "has the machine a virtio-fs device of this tag, and the kernel its driver?", func() (bool, error) {
		failed = mount(m)
		if errors.Is(failed, unix.EINVAL) {
			return false, nil // there is no device of this tag, yet
		}
		return true, failed
	})
	if err != nil && errors.Is(failed, unix.EINVAL) {
		return fmt.Errorf("%w: %w", failed, err)
	}
	return err
}
