package virtiofsd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/process"
)

// Cache modes.
const (
	// CacheAuto lets the guest believe its caches for a second.
	CacheAuto = "auto"
	// CacheAlways lets it believe them for ever: only for directories that
	// nothing changes on the host.
	CacheAlways = "always"
	// CacheNever makes it ask each time.
	CacheNever = "never"
)

// Config says what to share.
type Config struct {
	// Path is the daemon's binary, or empty to search for it.
	Path string
	// Dir is the directory to share: an absolute path without a comma.
	Dir string
	// SocketDir is a private directory in which the socket is for a moment.
	SocketDir string
	// Cache is CacheAuto, which is the default, CacheAlways or CacheNever.
	Cache string
}

// Daemon is a daemon that was started.
type Daemon struct {
	// Socket is connected to the daemon, for QEMU. It is the caller's, to be
	// closed once QEMU has it or is not wanted any more. When all copies of it are
	// closed the daemon ends.
	Socket *os.File

	proc *process.Process
	dir  string
}

const (
	socketName = "vfs.sock"
	// wantedFiles is how many files the daemon may have open: it holds one for
	// each that the guest knows of.
	wantedFiles = 1_000_000
)

// Start starts a daemon and returns once its program runs; what is sent to Socket
// before it listens is kept for it. When Start fails nothing is left behind.
//
// Errors: those of Find, ErrInvalidArgument for a configuration that has no
// meaning, ErrNotFound for a missing directory, and those of process.Start. That
// the daemon refuses to work is told by Done and Err.
func Start(ctx context.Context, cfg Config) (*Daemon, error) {
	cfg, err := checked(cfg)
	if err != nil {
		return nil, err
	}
	binary, err := Find(ctx, cfg.Path)
	if err != nil {
		return nil, err
	}
	listener, socket, err := socketIn(cfg.SocketDir)
	if err != nil {
		return nil, fmt.Errorf("share %s: %w", cfg.Dir, err)
	}
	defer listener.Close()
	files, err := fileLimit()
	if err == nil {
		var proc *process.Process
		proc, err = process.Start(process.Spec{
			Path:  binary.Path,
			Args:  arguments(binary, cfg, process.FD(0), files),
			Files: []*os.File{listener},
			// As the init of its namespace it takes its helpers along when it dies.
			Namespaces: unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		})
		if err == nil {
			return &Daemon{Socket: socket, proc: proc, dir: cfg.Dir}, nil
		}
	}
	socket.Close()
	return nil, fmt.Errorf("share %s: %w", cfg.Dir, err)
}

// checked fills in the defaults and refuses what cannot work.
func checked(cfg Config) (Config, error) {
	if cfg.Cache == "" {
		cfg.Cache = CacheAuto
	}
	switch cfg.Cache {
	case CacheAuto, CacheAlways, CacheNever:
	default:
		return cfg, fmt.Errorf("share %s: cache mode %q is unknown: use %q, %q or %q: %w",
			cfg.Dir, cfg.Cache, CacheAuto, CacheAlways, CacheNever, errdefs.ErrInvalidArgument)
	}
	// The daemon in C takes its options as one list, with backslashes to quote.
	if !filepath.IsAbs(cfg.Dir) || strings.ContainsAny(cfg.Dir, ",\\") {
		return cfg, fmt.Errorf("share %q: a shared directory is an absolute path without a comma or backslash: %w",
			cfg.Dir, errdefs.ErrInvalidArgument)
	}
	info, err := os.Stat(cfg.Dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return cfg, fmt.Errorf("share %s: %w: %w", cfg.Dir, err, errdefs.ErrNotFound)
	case err != nil:
		return cfg, fmt.Errorf("share %s: %w", cfg.Dir, err)
	case !info.IsDir():
		return cfg, fmt.Errorf("share %s: is no directory: %w", cfg.Dir, errdefs.ErrInvalidArgument)
	}
	return cfg, nil
}

// fileLimit returns how many files the daemon may have open: what is wanted, or
// what this process may have at most if it may not raise that.
func fileLimit() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	if limit.Max >= wantedFiles {
		return wantedFiles, nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	if data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return wantedFiles, nil
	}
	return limit.Max, nil
}

// PID is the daemon's host process.
func (d *Daemon) PID() int { return d.proc.PID() }

// Done is closed once the daemon and its helpers are gone.
func (d *Daemon) Done() <-chan struct{} { return d.proc.Done() }

// Err says why the daemon ended: nil before Done is closed and after Kill.
func (d *Daemon) Err() error {
	if err := d.proc.Err(); err != nil {
		return fmt.Errorf("share %s: %w", d.dir, err)
	}
	return nil
}

// Log returns the end of what the daemon said, as printable text of at most 2 KiB.
func (d *Daemon) Log() string { return d.proc.Log() }

// Kill ends the daemon at once and returns when it is gone. It may be called again.
func (d *Daemon) Kill(ctx context.Context) error {
	if err := d.proc.Kill(ctx); err != nil {
		return fmt.Errorf("share %s: %w", d.dir, err)
	}
	return nil
}
