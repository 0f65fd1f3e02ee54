package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// PodsMemory is what the kernel counts as memory of this cell's pods that it cannot take
// back: those that are gone have left what it finds in the cgroup above theirs, which is
// the only count that other users of the machine do not disturb. An error that is
// os.ErrNotExist says that there is no such cgroup, or not yet.
func (c *Cell) PodsMemory() (bytes uint64, err error) {
	for _, layout := range []struct{ root, reclaim, order, usage string }{
		{"/sys/fs/cgroup/memory", "memory.force_empty", "0", "memory.usage_in_bytes"},
		{"/sys/fs/cgroup", "memory.reclaim", strconv.Itoa(1 << 40), "memory.current"},
	} {
		dir := filepath.Join(layout.root, c.Namespace)
		if !exists(filepath.Join(dir, layout.usage)) {
			continue
		}
		// Files that were read, and what the kernel knows of names: that may go any time.
		// There is less than is asked for, which is told as EAGAIN.
		err := os.WriteFile(filepath.Join(dir, layout.reclaim), []byte(layout.order), 0)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return 0, fmt.Errorf("having the kernel take back memory of pods: %w", err)
		}
		data, err := os.ReadFile(filepath.Join(dir, layout.usage))
		if err != nil {
			return 0, err
		}
		return strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	}
	return 0, fmt.Errorf("the memory of the cgroup %s: %w", c.Namespace, os.ErrNotExist)
}
