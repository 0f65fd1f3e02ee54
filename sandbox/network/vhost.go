package network

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenVHost opens the host kernel's accelerator for virtio-net n times, once for
// each queue of a tap. It is nil on a host that has none.
func OpenVHost(n int) ([]*os.File, error) {
	return openEach("/dev/vhost-net", n)
}

func openEach(device string, n int) ([]*os.File, error) {
	var files []*os.File
	for range n {
		f, err := os.OpenFile(device, os.O_RDWR, 0)
		if err == nil {
			files = append(files, f)
			continue
		}
		closeAll(files)
		// A device file may be there without its driver.
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
			return nil, nil
		}
		return nil, fmt.Errorf("opening %s for a queue of the network card: %w", device, err)
	}
	return files, nil
}

// closeAll closes files, of which some may be closed already.
func closeAll(files []*os.File) error {
	var failed []error
	for _, f := range files {
		if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
