package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/virtcontainers"
)

const (
	// maxRelays is how many connections of a guest to sockets of the host there
	// are at once: as many as an agent makes.
	maxRelays = 256
	// socketTimeout bounds connecting to one.
	socketTimeout = 5 * time.Second
)

// hostSocket is a unix socket of the host that a container has. It is the socket
// that the bind named when the container was made, whatever has its name later.
type hostSocket struct {
	id     uint64
	source string
	file   *os.File // opened as a path
	stat   unix.Stat_t
	life   context.Context // the container's
}

func openSocket(id uint64, source string, life context.Context) (*hostSocket, error) {
	file, err := openPath(source)
	if err != nil {
		return nil, err
	}
	s := &hostSocket{id: id, source: source, file: file, life: life}
	err = unix.Fstat(int(file.Fd()), &s.stat)
	if err == nil && s.stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		err = fmt.Errorf("it is no socket any more: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("looking at the socket %s: %w", source, err)
	}
	return s, nil
}

// openPath holds on to what a path names, and not to the mount that it is on,
// which the host could not unmount then.
func openPath(source string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == unix.ENOSYS { // before Linux 5.2
		fd, err = unix.Open(source, unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	if err == unix.ENOENT {
		return nil, fmt.Errorf("mount source %s: %w: %w", source, err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s for the container: %w", source, err)
	}
	return os.NewFile(uintptr(fd), source), nil
}

// dial connects to the socket.
func (s *hostSocket) dial(ctx context.Context) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeout(ctx, socketTimeout)
	defer cancel()
	raw, err := s.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	// The descriptor stays what it is until this returns.
	controlErr := raw.Control(func(fd uintptr) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", fd))
	})
	if err := errors.Join(controlErr, err); err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", s.source, err)
	}
	return conn.(*net.UnixConn), nil
}

// message is how the guest is told of the socket, and of where it has it.
func (s *hostSocket) message(v virtcontainers.Volume) *agentv1.Socket {
	uid, gid := v.IDs.Owner(s.stat.Uid, s.stat.Gid)
	return &agentv1.Socket{Id: s.id, Path: v.Target, Mode: s.stat.Mode & 0o7777, Uid: uid, Gid: gid}
}

// hostSockets are those that the sandbox's containers have.
type hostSockets struct {
	mu   sync.Mutex
	last uint64
	byID map[uint64]*hostSocket
}

// add opens the sockets that a container binds, until remove. life ends with the
// container. When it fails none is open.
func (h *hostSockets) add(life context.Context, volumes []virtcontainers.Volume) (ids []uint64, messages []*agentv1.Socket, err error) {
	for _, v := range volumes {
		h.mu.Lock()
		h.last++
		id := h.last
		h.mu.Unlock()
		s, err := openSocket(id, v.Source, life)
		if err != nil {
			h.remove(ids)
			return nil, nil, err
		}
		h.mu.Lock()
		h.byID[id] = s
		h.mu.Unlock()
		ids = append(ids, id)
		messages = append(messages, s.message(v))
	}
	return ids, messages, nil
}

func (h *hostSockets) remove(ids []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range ids {
		if s := h.byID[id]; s != nil {
			s.file.Close()
			delete(h.byID, id)
		}
	}
}

// get returns a socket that a container has now, or nil.
func (h *hostSockets) get(id uint64) *hostSocket {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byID[id]
}
