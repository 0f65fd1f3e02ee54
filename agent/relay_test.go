package agent

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// testSockets listens at a socket, and gives the connections that it tells of.
func testSockets(t *testing.T) (*sockets, string, <-chan *agentv1.Connection) {
	t.Helper()
	r := newRelays(newEvents())
	told := make(chan *agentv1.Connection, maxRelays)
	listener := make(chan *agentv1.Event, eventQueue)
	r.events.listeners[listener] = true
	go func() {
		for e := range listener {
			told <- e.GetConnection()
		}
	}()
	dir, err := os.MkdirTemp("", "relay")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	s := &sockets{relays: r, closed: make(chan struct{}), listeners: []*net.UnixListener{l}}
	s.accepting.Go(func() { r.accept(l, 7, s.closed) })
	t.Cleanup(func() {
		s.close()
		close(listener)
		os.RemoveAll(dir)
	})
	return s, path, told
}

func dialUnix(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialTimeout("unix", path, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn.(*net.UnixConn)
}

func TestRelay(t *testing.T) {
	s, path, told := testSockets(t)
	client := dialUnix(t, path)
	connection := <-told
	if connection.GetSocketId() != 7 {
		t.Errorf("told of %v", connection)
	}
	host, guest := net.Pipe()
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		s.relays.join(connection.GetConnectionId(), guest, nil)
	}()
	remote := channel.NewConn(host)
	go func() {
		data, _ := io.ReadAll(remote)
		remote.Write(data)
		remote.CloseWrite()
	}()
	if _, err := client.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(client); err != nil || string(answer) != "question" {
		t.Errorf("answered %q, %v", answer, err)
	}
	<-joined
	if len(s.relays.places) != 0 {
		t.Errorf("%d places are taken", len(s.relays.places))
	}
}

// TestAConnectionIsJoinedOnce opens streams for what is not there.
func TestAConnectionIsJoinedOnce(t *testing.T) {
	s, path, told := testSockets(t)
	dialUnix(t, path)
	id := (<-told).GetConnectionId()
	s.relays.refuse(id)
	for _, id := range []uint64{0, id, id + 1} {
		host, guest := net.Pipe()
		s.relays.join(id, guest, nil)
		if _, err := host.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("stream %d: %v", id, err)
		}
	}
}

// TestDeletedSocketsEndTheirConnections closes the listener while one waits.
func TestDeletedSocketsEndTheirConnections(t *testing.T) {
	s, path, told := testSockets(t)
	client := dialUnix(t, path)
	<-told
	s.close()
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read: %v", err)
	}
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("a deleted socket still listens")
	}
	if len(s.relays.places) != 0 || len(s.relays.waiting) != 0 {
		t.Errorf("%d places are taken, %d wait", len(s.relays.places), len(s.relays.waiting))
	}
	s.close()
}

// TestAConnectionThatNobodyTakesEnds has a host that does not answer.
func TestAConnectionThatNobodyTakesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelays(newEvents())
		r.places <- struct{}{}
		r.announce(&net.UnixConn{}, nil, 1)
		time.Sleep(relayTime - time.Nanosecond)
		if len(r.places) != 1 {
			t.Error("it was given up early")
		}
		time.Sleep(2 * time.Nanosecond)
		synctest.Wait()
		if len(r.places) != 0 || len(r.waiting) != 0 {
			t.Error("it waits still")
		}
		// As many as there may be, and one more.
		for range maxRelays {
			r.places <- struct{}{}
		}
		begun := time.Now()
		if r.place(nil) || time.Since(begun) != relayTime {
			t.Errorf("the one too many was told so after %v", time.Since(begun))
		}
	})
}

func TestBadSocketsAreRefused(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, s := range []*agentv1.Socket{
		{Id: 0, Path: volumesDir + "/c/s"},
		{Id: 1, Path: ""},
		{Id: 1, Path: "/etc/s"},
		{Id: 1, Path: volumesDir + "/other/s"},
		{Id: 1, Path: volumesDir + "/c/../other/s"},
		{Id: 1, Path: volumesDir + "/c"},
	} {
		if _, err := listenAll(newRelays(newEvents()), "c", []*agentv1.Socket{s}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", s, err)
		}
	}
	if _, err := listenAll(newRelays(newEvents()), "c", make([]*agentv1.Socket, maxSockets+1)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too many: %v", err)
	}
}
