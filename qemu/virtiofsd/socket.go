package virtiofsd

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// socketIn returns a listening socket for the daemon and the one connection to it
// that there will ever be: the daemon takes it when it comes up, and nobody else
// can reach the socket, which has no name any more.
func socketIn(dir string) (listener, connection *os.File, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("open the directory for its socket: %w", err)
	}
	defer d.Close()
	// Through the descriptor, as the name of a socket has room for 107 bytes.
	addr := &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketName)}
	if listener, err = newSocket(); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			listener.Close()
		}
	}()
	if err = unix.Bind(int(listener.Fd()), addr); err != nil {
		return nil, nil, fmt.Errorf("make a socket in %s: %w", dir, err)
	}
	defer func() {
		if e := os.Remove(addr.Name); e != nil && err == nil {
			connection.Close()
			err = fmt.Errorf("remove the socket in %s: %w", dir, e)
		}
	}()
	if err = unix.Listen(int(listener.Fd()), 1); err != nil {
		return nil, nil, fmt.Errorf("listen in %s: %w", dir, err)
	}
	if connection, err = newSocket(); err != nil {
		return nil, nil, err
	}
	// It succeeds as soon as the socket listens, with nobody there yet.
	if err = unix.Connect(int(connection.Fd()), addr); err != nil {
		connection.Close()
		return nil, nil, fmt.Errorf("connect in %s: %w", dir, err)
	}
	return listener, connection, nil
}

func newSocket() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	return os.NewFile(uintptr(fd), socketName), nil
}
