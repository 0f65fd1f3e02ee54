package sandbox

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/virtcontainers"
)

// endsWith says whether the machine is to end with a container that is being deleted:
// nobody will ask for another, and there is nothing of it that the guest has yet to pass
// on. To undo there what goes with it anyway would take an emulated clone as long as to
// run a small program. If so no container can be made any more.
func (s *Sandbox) endsWith(c *Container) bool {
	c.mu.Lock()
	disks := len(c.disks)
	c.mu.Unlock()
	// What a file system on a disk of the host, a share or a socket has not been given
	// yet must get there.
	if disks > 0 || len(c.sockets) > 0 || c.guest.share {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Pods and who uses the sandbox API say themselves when theirs ends.
	alone := !s.booted && virtcontainers.RoleOf(c.spec.Annotations) == virtcontainers.Alone
	s.last = s.last || alone && len(s.containers) == 1 && s.containers[c.id] == c
	return s.last
}

func (s *Sandbox) lastError() error {
	return fmt.Errorf("sandbox %s ends with its last container, which has been deleted: %w", s.opts.ID, errdefs.ErrFailedPrecondition)
}
