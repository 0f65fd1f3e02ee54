package shim

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// defaultSocketDir is where containerd's shims have their sockets.
	defaultSocketDir = "/run/containerd/s"
	// maxSocketPath is what fits into a sockaddr_un.
	maxSocketPath = 107
	// dialTimeout bounds a connection to a local socket: a full backlog.
	dialTimeout = 500 * time.Millisecond
	unixScheme  = "unix://"
)

// socketAddress is the address of a group's server: any start of the group,
// under the same containerd, comes to the same one.
func socketAddress(dir, containerd, namespace, group string) (string, error) {
	if dir == "" {
		dir = defaultSocketDir
	}
	sum := sha256.Sum256([]byte(filepath.Join(containerd, namespace, group)))
	path := filepath.Join(dir, fmt.Sprintf("%x", sum))
	if !filepath.IsAbs(path) || len(path) > maxSocketPath {
		return "", fmt.Errorf("socket %s: want an absolute path of at most %d bytes; choose another socket_dir in containerd's configuration: %w",
			path, maxSocketPath, errdefs.ErrInvalidArgument)
	}
	return unixScheme + path, nil
}

func socketPath(address string) string { return strings.TrimPrefix(address, unixScheme) }

// listen binds a group's socket. When a server has it already the listener is
// nil. A socket that nobody listens on is a dead server's, and replaced.
func listen(ctx context.Context, address string) (*net.UnixListener, error) {
	path := socketPath(address)
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if alive(ctx, address) {
		return nil, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove a dead server's socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the server's socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("make the server's socket: %w", err), l.Close(), os.Remove(path))
	}
	return l, nil
}

// removeDeadSocket removes a socket that nobody listens on.
func removeDeadSocket(ctx context.Context, address string) error {
	path := socketPath(address)
	if _, err := os.Lstat(path); err != nil {
		return nil
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	if alive(ctx, address) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a dead server's socket: %w", err)
	}
	return nil
}

// alive reports whether somebody listens.
func alive(ctx context.Context, address string) bool {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "unix", socketPath(address))
	if err != nil {
		return errors.Is(err, unix.EAGAIN) // its backlog is full
	}
	_ = conn.Close()
	return true
}

// lockDir holds off other starts and deletes that look at the sockets in dir.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock the sockets' directory: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}
