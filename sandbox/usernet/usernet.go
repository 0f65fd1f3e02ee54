package usernet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/process"
)

const (
	name = "pasta"
	hint = "install it (Debian's package is passt) or name it as pasta.path in the configuration"
	// mountName is the file that stands for the namespace.
	mountName = "netns"
)

// Config says where to.
type Config struct {
	// Path is the program, or empty to search for it on PATH.
	Path string
	// NetNS is a path of the network namespace.
	NetNS string
	// Dir is a private directory.
	Dir string
}

// Daemon is a program that was started.
type Daemon struct {
	proc     *process.Process
	file     string
	families Families
}

// Start starts the program; the namespace has its interface a moment later. When
// Start fails nothing is left behind.
//
// Errors: ErrNotFound if there is no such program, ErrUnavailable if the host has no
// default route, and those of process.Start.
func Start(cfg Config) (*Daemon, error) {
	path, err := find(cfg.Path)
	if err != nil {
		return nil, err
	}
	families, err := hostFamilies()
	if err != nil {
		return nil, err
	}
	// The program gives up the right to look at other processes before it opens the
	// namespace, and newer ones close what they inherit.
	file := filepath.Join(cfg.Dir, mountName)
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return nil, fmt.Errorf("making a file for the network namespace: %w", err)
	}
	if err := unix.Mount(cfg.NetNS, file, "", unix.MS_BIND, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("mounting the network namespace %s at %s: %w", cfg.NetNS, file, err), os.Remove(file))
	}
	proc, err := process.Start(process.Spec{
		Path: path,
		Args: arguments(file, families),
		Env:  []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"},
	})
	if err != nil {
		return nil, errors.Join(err, release(file))
	}
	return &Daemon{proc: proc, file: file, families: families}, nil
}

// arguments let connections out and none in: not from the host's ports, and not to
// its loopback, be it by the gateway's address or by ports of the namespace.
func arguments(netns string, families Families) []string {
	return append([]string{
		"--foreground", "--stderr", "--quiet",
		"--runas", "0:0", // who may enter the namespace; it keeps two capabilities
		"--netns-only", "--netns", netns, "--config-net", "--ns-ifname", "eth0", "--mtu", "1500",
		"--no-map-gw", "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
		"--no-dhcp", "--no-dhcpv6", "--no-ra",
	}, families.arguments()...)
}

func find(path string) (string, error) {
	if path != "" {
		return path, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find %s: %w: %s: %w", name, err, hint, errdefs.ErrNotFound)
	}
	return filepath.Abs(path)
}

// PID is the program's host process.
func (d *Daemon) PID() int { return d.proc.PID() }

// Families are those by which the namespace gets a default route.
func (d *Daemon) Families() Families { return d.families }

// Done is closed once the program is gone, and Err then says why.
func (d *Daemon) Done() <-chan struct{} { return d.proc.Done() }

// Err says why the program ended: nil before Done is closed and after Close.
func (d *Daemon) Err() error { return d.proc.Err() }

// Close ends the program and returns when it is gone.
func (d *Daemon) Close(ctx context.Context) error {
	if err := d.proc.Kill(ctx); err != nil {
		return err
	}
	return release(d.file)
}

func release(file string) error {
	if err := unix.Unmount(file, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting %s: %w", file, err)
	}
	return os.Remove(file)
}
