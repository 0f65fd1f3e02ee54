package agent

import (
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
)

// shmDir is what the containers of a pod share as /dev/shm.
const shmDir = "/run/hyper/shm"

// usualShm is its size in bytes in most pods.
const usualShm = 64 << 20

// setShm makes shmDir a tmpfs of size bytes, or gives it that size if it is one.
// 0 leaves it as it is.
func (g *guest) setShm(size uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if size == 0 || size == g.shmSize {
		return nil
	}
	if size > math.MaxInt64 {
		return fmt.Errorf("shm_size of %d bytes: %w", size, errdefs.ErrInvalidArgument)
	}
	flags := uintptr(safe)
	if g.shmSize != 0 {
		flags |= unix.MS_REMOUNT
	}
	if err := os.MkdirAll(shmDir, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", shmDir, err)
	}
	if err := unix.Mount("shm", shmDir, "tmpfs", flags, fmt.Sprintf("mode=1777,size=%d", size)); err != nil {
		return fmt.Errorf("mounting a tmpfs of %d bytes on %s: %w", size, shmDir, err)
	}
	g.shmSize = size
	return nil
}
