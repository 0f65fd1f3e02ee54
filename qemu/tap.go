package qemu

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// vhostGetFeatures is the ioctl VHOST_GET_FEATURES.
const vhostGetFeatures = 0x8008af00

// checkTap asks the kernel whether a file is the queue of a tap with IFF_VNET_HDR.
// QEMU finds out too, but some versions then forget to close the file.
func checkTap(f *os.File) error {
	return withDescriptor(f, func(fd int) error {
		var request unix.Ifreq
		if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, &request); err != nil {
			return err
		}
		const want = unix.IFF_TAP | unix.IFF_VNET_HDR
		if flags := request.Uint16(); flags&want != want {
			return fmt.Errorf("its flags are %#x", flags)
		}
		return nil
	})
}

// checkVHost asks the kernel whether a file is a vhost device. QEMU 7.2 dies of one
// that is not.
func checkVHost(f *os.File) error {
	return withDescriptor(f, func(fd int) error {
		_, err := unix.IoctlGetInt(fd, vhostGetFeatures)
		return err
	})
}

func withDescriptor(f *os.File, use func(fd int) error) error {
	if f == nil {
		return errors.New("there is no file")
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = use(int(fd)) })
	return errors.Join(err, failed)
}
