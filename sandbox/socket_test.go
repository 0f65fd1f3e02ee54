package sandbox

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/virtcontainers"
)

// echoServer serves a socket: each connection gets back what it sent.
func echoServer(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	return l
}

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "socket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func addSocket(t *testing.T, h *hostSockets, life context.Context, path string) uint64 {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("copying a mount needs root")
	}
	ids, messages, err := h.add(life, []virtcontainers.Volume{{Source: path, Target: "/run/hyper/volumes/c/mounts/0"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.remove(ids) })
	if len(messages) != 1 || messages[0].GetId() != ids[0] || messages[0].GetPath() != "/run/hyper/volumes/c/mounts/0" {
		t.Errorf("the guest is told %v", messages)
	}
	return ids[0]
}

func newHostSockets() *hostSockets { return &hostSockets{byID: make(map[uint64]*hostSocket)} }

// TestASocketIsTheOneThatWasBound has its name lead elsewhere later, as who can
// write to its directory could make it.
func TestASocketIsTheOneThatWasBound(t *testing.T) {
	h, path, other := newHostSockets(), socketPath(t), socketPath(t)
	l := echoServer(t, path)
	echoServer(t, other)
	id := addSocket(t, h, t.Context(), path)
	conn, err := h.get(id).dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := errors.Join(l.Close(), os.Remove(path), os.Symlink(other, path)); err != nil {
		t.Fatal(err)
	}
	if conn, err := h.get(id).dial(t.Context()); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connected to %v, %v", conn, err)
	}
	h.remove([]uint64{id})
	if h.get(id) != nil {
		t.Error("a socket of no container is found")
	}
}

func TestASocketDoesNotHoldItsMount(t *testing.T) {
	h, dir := newHostSockets(), filepath.Dir(socketPath(t))
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	l := echoServer(t, filepath.Join(dir, "s"))
	addSocket(t, h, t.Context(), filepath.Join(dir, "s"))
	l.Close()
	if err := unix.Unmount(dir, 0); err != nil {
		t.Errorf("unmounting what the socket was on: %v", err)
	}
}

func TestNoSocket(t *testing.T) {
	_, file := testVolume(t)
	for path, kind := range map[string]error{file: errdefs.ErrFailedPrecondition, file + "-missing": errdefs.ErrNotFound} {
		if os.Getuid() != 0 {
			t.Skip("copying a mount needs root")
		}
		h := newHostSockets()
		if _, _, err := h.add(t.Context(), []virtcontainers.Volume{{Source: path}}); !errors.Is(err, kind) || len(h.byID) > 0 {
			t.Errorf("%s: %v, and %d are open", path, err, len(h.byID))
		}
	}
}

// relayed is a guest on the other end of a session, which gives the streams that
// the host opens.
func relayed(t *testing.T) (*relays, <-chan *channel.Conn) {
	t.Helper()
	hostEnd, guestEnd := net.Pipe()
	streams := make(chan *channel.Conn, 16)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		session, err := channel.Accept(guestEnd, func() error { return nil })
		if err != nil {
			t.Error(err)
			return
		}
		session.Serve(func(h channel.Header, stream net.Conn) {
			if h.Kind != channel.Socket || h.ID != 5 {
				t.Errorf("a stream with %+v", h)
			}
			stream.SetDeadline(time.Now().Add(20 * time.Second))
			streams <- channel.NewConn(stream)
		})
	}()
	session, err := channel.Connect(t.Context(), hostEnd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close(); <-ended })
	s := &Sandbox{sockets: hostSockets{byID: make(map[uint64]*hostSocket)}, log: log.L}
	return newRelays(&guest{sandbox: s, session: session}), streams
}

func TestRelays(t *testing.T) {
	r, streams := relayed(t)
	path := socketPath(t)
	l := echoServer(t, path)
	life, end := context.WithCancel(t.Context())
	id := addSocket(t, &r.guest.sandbox.sockets, life, path)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	r.begin(ctx, &agentv1.Connection{SocketId: id, ConnectionId: 5})
	stream := <-streams
	if _, err := stream.Write([]byte("word")); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(stream); err != nil || string(answer) != "word" {
		t.Errorf("answered %q, %v", answer, err)
	}
	r.wait()

	// Of a container that ends, its connections do.
	r.begin(ctx, &agentv1.Connection{SocketId: id, ConnectionId: 5})
	stream = <-streams
	end()
	if _, err := io.ReadAll(stream); err != io.ErrUnexpectedEOF {
		t.Errorf("after the container: %v", err)
	}
	r.wait()

	// A server that is gone ends them at once.
	id = addSocket(t, &r.guest.sandbox.sockets, t.Context(), path)
	l.Close()
	r.begin(ctx, &agentv1.Connection{SocketId: id, ConnectionId: 5})
	if _, err := io.ReadAll(<-streams); err != io.ErrUnexpectedEOF {
		t.Errorf("without a server: %v", err)
	}
	r.wait()
	if len(r.places) > 0 || ctx.Err() != nil {
		t.Errorf("%d places are taken, %v", len(r.places), ctx.Err())
	}
}

// TestAGuestGetsNoOtherSockets has it tell of connections that it may not have.
func TestAGuestGetsNoOtherSockets(t *testing.T) {
	r, streams := relayed(t)
	path := socketPath(t)
	echoServer(t, path)
	id := addSocket(t, &r.guest.sandbox.sockets, t.Context(), path)
	for _, socket := range []uint64{0, id + 1, 1 << 63} {
		r.begin(t.Context(), &agentv1.Connection{SocketId: socket, ConnectionId: 5})
	}
	for range maxRelays {
		r.places <- struct{}{}
	}
	r.begin(t.Context(), &agentv1.Connection{SocketId: id, ConnectionId: 5})
	r.wait()
	if len(streams) > 0 || len(r.places) != maxRelays {
		t.Errorf("%d streams were opened, %d places are taken", len(streams), len(r.places))
	}
}
