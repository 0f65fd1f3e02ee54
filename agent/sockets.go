package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

const (
	// volumesDir holds, by container, what is made in the guest to be bound into
	// it: the listening sockets, and the copies of volumes.
	volumesDir = "/run/hyper/volumes"
	maxSockets = 64
)

// sockets are those of the host for which a container's mounts listen.
type sockets struct {
	relays    *relays
	listeners []*net.UnixListener
	accepting sync.WaitGroup
	closed    chan struct{}
}

// listenAll listens for the host's sockets, at all or at none.
func listenAll(r *relays, container string, list []*agentv1.Socket) (*sockets, error) {
	if len(list) > maxSockets {
		return nil, fmt.Errorf("%d sockets, at most %d: %w", len(list), maxSockets, errdefs.ErrInvalidArgument)
	}
	s := &sockets{relays: r, closed: make(chan struct{})}
	for _, socket := range list {
		l, err := listen(container, socket)
		if err != nil {
			s.close()
			return nil, err
		}
		s.listeners = append(s.listeners, l)
		s.accepting.Go(func() { r.accept(l, socket.GetId(), s.closed) })
	}
	return s, nil
}

// close ends the listeners, and the connections that wait for the host. Those
// that it has taken are its own to end. It may be called again, and on nil.
func (s *sockets) close() {
	if s == nil || len(s.listeners) == 0 {
		return
	}
	close(s.closed)
	for _, l := range s.listeners {
		l.Close()
		s.relays.drop(l)
	}
	s.accepting.Wait()
	for _, l := range s.listeners {
		s.relays.drop(l) // what was accepted meanwhile
	}
	s.listeners = nil
}

// listen makes a listening socket that has the attributes of the host's.
func listen(container string, s *agentv1.Socket) (*net.UnixListener, error) {
	path := s.GetPath()
	home := filepath.Join(volumesDir, container) + "/"
	if s.GetId() == 0 || filepath.Clean(path) != path || !strings.HasPrefix(path, home) {
		return nil, fmt.Errorf("socket %d at %q: want an id, and a clean path below %s: %w", s.GetId(), path, home, errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the directory of a socket: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("opening the directory of a socket: %w", err)
	}
	defer dir.Close()
	// An address holds 107 bytes, which the path may exceed.
	name := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: name})
	if err != nil {
		return nil, fmt.Errorf("listening at %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // the name is not to be found by then
	err = errors.Join(os.Lchown(path, int(s.GetUid()), int(s.GetGid())), unix.Chmod(path, s.GetMode()&0o7777))
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("giving %s the attributes of the host's socket: %w", path, err)
	}
	return l, nil
}
