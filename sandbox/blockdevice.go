package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

func numberOf(st *unix.Stat_t) virtcontainers.DeviceNumber {
	return virtcontainers.DeviceNumber{Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev))}
}

// openBlockDevice opens the host's block device of a number. It has the name that
// the kernel gave it, or failing that may be at the path at which the container will
// have it. errdefs.ErrNotFound if there is none.
func openBlockDevice(n virtcontainers.DeviceNumber, path string, readOnly bool) (*os.File, error) {
	candidates := []string{path}
	if name, err := kernelName(n); err == nil {
		candidates = []string{filepath.Join("/dev", name), path}
	}
	for _, candidate := range candidates {
		f, err := openIfBlockDevice(candidate, n, readOnly)
		if f != nil || err != nil {
			return f, err
		}
	}
	return nil, fmt.Errorf("the host has no block device %s at %s: %w", n, strings.Join(candidates, " or "), errdefs.ErrNotFound)
}

// kernelName is the name of a block device below /dev.
func kernelName(n virtcontainers.DeviceNumber) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%s/uevent", n))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return name, nil
		}
	}
	return "", os.ErrNotExist
}

// openIfBlockDevice gives nil if something else is at path: that is never opened,
// which for some files does more than one wants.
func openIfBlockDevice(path string, n virtcontainers.DeviceNumber, readOnly bool) (*os.File, error) {
	place, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK || numberOf(&st) != n {
		return nil, nil
	}
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", place), mode, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the host's block device %s (%s): %w", path, n, err)
	}
	return f, nil
}
