//go:build linux

package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// write writes text to a file or a device, and returns when it is there: the kernel
// keeps what was written to a device that somebody else has open as well.
func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	sync := f.Sync()
	if errors.Is(sync, unix.EINVAL) {
		sync = nil // a setting of the kernel's has nothing to sync
	}
	return errors.Join(err, sync, f.Close())
}
