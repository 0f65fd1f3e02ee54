// Command unbzimage unpacks the ELF kernel of a compressed x86 Linux image, for PVH direct boot.
package main

import (
	"fmt"
	"os"

	"github.com/hyperhq/hyper/guest/bzimage"
)

func main() {
	if len(os.Args) != 3 || os.Args[1] == "--help" || os.Args[1] == "-h" {
		fmt.Fprintln(os.Stderr, `usage: unbzimage BZIMAGE VMLINUX

Unpack the kernel in BZIMAGE (a distribution's /boot/vmlinuz-*) into the ELF file VMLINUX,
which QEMU enters directly when the kernel was built with CONFIG_PVH.`)
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "unbzimage:", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	image, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	kernel, err := bzimage.Extract(image)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return os.WriteFile(to, kernel, 0o644)
}
