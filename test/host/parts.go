package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hyperhq/hyper/guest/image"
)

// diskSize is how large the machine's disk can get, in bytes; it takes what is written.
const diskSize = 16 << 30

// parts are the files that a machine is made from.
type parts struct {
	// checkout is where this project is.
	checkout string
	// kernelDir has vmlinuz and modules.
	kernelDir string
	// image is the initial root file system.
	image string
	// disk has an empty file system.
	disk string
}

// prepare builds and fetches what a machine needs. What is not cached goes to dir.
func prepare(ctx context.Context, dir string) (parts, error) {
	checkout, err := output(ctx, "go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return parts{}, err
	}
	kernel, err := output(ctx, filepath.Join(checkout, "hack", "fetch-kernel"), "host")
	if err != nil {
		return parts{}, err
	}
	p := parts{
		checkout: checkout, kernelDir: kernel,
		image: filepath.Join(dir, "image"), disk: filepath.Join(dir, "disk"),
	}
	if err := buildImage(ctx, dir, p); err != nil {
		return parts{}, err
	}
	disk, err := os.Create(p.disk)
	if err != nil {
		return parts{}, err
	}
	if err := errors.Join(disk.Truncate(diskSize), disk.Close()); err != nil {
		return parts{}, fmt.Errorf("make a disk: %w", err)
	}
	_, err = output(ctx, "mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-O", "^has_journal", p.disk)
	return p, err
}

// modules are those without which the machine has no root; others it can load from there.
func modules() []string {
	return []string{"virtio_pci", "virtio_console", "virtio_blk", "virtio_rng", "9p", "9pnet_virtio", "crc32c_generic", "crc32c_intel", "ext4", "overlay"}
}

func buildImage(ctx context.Context, dir string, p parts) (err error) {
	program := filepath.Join(dir, "init")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./test/host/init")
	build.Dir, build.Env = p.checkout, append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the host's init: %w\n%s", err, said)
	}
	f, err := os.Create(p.image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	if err := image.Build(w, image.Spec{Init: program, ModulesDir: filepath.Join(p.kernelDir, "modules"), Modules: modules()}); err != nil {
		return fmt.Errorf("build the host's image: %w", err)
	}
	return w.Flush()
}

// output runs a program and returns the last line that it prints.
func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	said, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	return lines[len(lines)-1], nil
}
