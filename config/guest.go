package config

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// GuestFiles resolves what a virtual machine boots: the configured paths, or
// what is installed beside this executable, in ../share/hyper of its directory.
// There the tuned kernel (hyperkernel) is preferred to the distribution's
// (cloud). The error is an errdefs.ErrNotFound that says what to do.
func (c *Config) GuestFiles() (kernel, image string, err error) {
	exe, err := os.Executable()
	if err != nil {
		return "", "", fmt.Errorf("finding the guest's files: %w", err)
	}
	return c.guestFiles(filepath.Join(filepath.Dir(exe), "..", "share", "hyper"))
}

func (c *Config) guestFiles(share string) (kernel, image string, err error) {
	kernel, image = c.Guest.Kernel, c.Guest.Image
	if kernel == "" || image == "" {
		k, i, found := installed(share)
		if !found {
			return "", "", fmt.Errorf("no guest kernel and image in %s/{hyperkernel,cloud}/{vmlinux,initrd.img}: "+
				"run `make guest` (or `make install`), or set guest.kernel and guest.image in the configuration: %w",
				share, errdefs.ErrNotFound)
		}
		if kernel == "" {
			kernel = k
		}
		if image == "" {
			image = i
		}
	}
	for _, f := range []struct{ key, path string }{{"guest.kernel", kernel}, {"guest.image", image}} {
		if err := readable(f.path); err != nil {
			return "", "", fmt.Errorf("%s: %w: run `make guest` (or `make install`), or set %s in the configuration: %w",
				f.key, err, f.key, errdefs.ErrNotFound)
		}
	}
	return kernel, image, nil
}

func installed(share string) (kernel, image string, found bool) {
	for _, flavour := range []string{"hyperkernel", "cloud"} {
		kernel = filepath.Join(share, flavour, "vmlinux")
		image = filepath.Join(share, flavour, "initrd.img")
		if readable(kernel) == nil && readable(image) == nil {
			return kernel, image, true
		}
	}
	return "", "", false
}

func readable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}
