package network

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// TestGuestSpeaks has another namespace's stack in the guest's place, and a pump in
// QEMU's. The guest is configured with what Read says, each line as it comes.
func TestGuestSpeaks(t *testing.T) {
	tests := map[string]string{
		"a bridge's pod": `
			addr add 10.88.0.5/24 dev eth0
			addr add 2001:db8::5/64 dev eth0 nodad
			route add default via 10.88.0.1
			route add default via 2001:db8::1`,
		"a pod that reaches all through its gateway": `
			addr add 10.88.0.5/24 dev eth0
			addr add 2001:db8::5/64 dev eth0 nodad
			route del 10.88.0.0/24 dev eth0
			route add 10.88.0.1/32 dev eth0 scope link src 10.88.0.5
			route add 10.88.0.0/24 via 10.88.0.1 src 10.88.0.5
			route add default via 10.88.0.1
			route del 2001:db8::/64 dev eth0
			route add 2001:db8::1/128 dev eth0
			route add 2001:db8::/64 via 2001:db8::1
			route add default via 2001:db8::1`,
		"a pod whose gateway is on the link": `
			addr add 10.88.0.5/32 dev eth0
			addr add 2001:db8::5/128 dev eth0 nodad
			route add default via 10.88.0.1 dev eth0 onlink
			route add 2001:db8::1 dev eth0
			route add default via 2001:db8::1
			neigh add 10.88.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent`,
	}
	for name, configuration := range tests {
		t.Run(name, func(t *testing.T) {
			pod, host := newPod(t)
			ip(t, pod, configuration)
			// The addresses behind the gateway are on its loopback.
			ip(t, host, `
				addr add 10.88.0.1/24 dev veth0
				addr add 2001:db8::1/64 dev veth0 nodad
				link set lo up
				addr add 203.0.113.1/32 dev lo
				addr add 2001:db8:1::1/128 dev lo`)
			guest := bootGuest(t, pod)
			for _, from := range []struct {
				client, server *Namespace
				addresses      []string
			}{
				{host, guest, []string{"10.88.0.5", "2001:db8::5"}},
				{guest, host, []string{"10.88.0.1", "2001:db8::1", "203.0.113.1", "2001:db8:1::1"}},
			} {
				for _, address := range from.addresses {
					transfer(t, from.client, from.server, address)
				}
			}
		})
	}
}

// bootGuest is a namespace that has the pod's network by way of a tap.
func bootGuest(t *testing.T, pod *Namespace) *Namespace {
	t.Helper()
	network, err := pod.Read()
	if err != nil {
		t.Fatal(err)
	}
	tap := join(t, pod, "eth0", 1)
	guest := newNamespace(t)
	var card *os.File
	err = guest.inside(func() (err error) {
		card, err = openQueue("eth0", unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	ends := pollable(t, tap.Queues[0], card)
	pump(t, ends[0], ends[1])
	ip(t, guest, commands(network))
	return guest
}

// commands are the ip(8) commands that configure a guest.
func commands(n virtcontainers.Network) string {
	var b strings.Builder
	for _, i := range n.Interfaces {
		fmt.Fprintf(&b, "link set %s address %s mtu %d up\n", i.Name, i.MAC, i.MTU)
		for _, a := range i.Addresses {
			nodad := ""
			if a.Addr().Is6() {
				nodad = "nodad"
			}
			fmt.Fprintf(&b, "addr add %s dev %s %s\n", a, i.Name, nodad)
		}
	}
	for _, r := range n.Routes {
		fmt.Fprintf(&b, "route add %s dev %s metric %d", r.Destination, r.Interface, r.Metric)
		if r.Gateway.IsValid() {
			fmt.Fprintf(&b, " via %s", r.Gateway)
		}
		if r.Source.IsValid() {
			fmt.Fprintf(&b, " src %s", r.Source)
		}
		if r.Destination.Addr().Is4() {
			fmt.Fprintf(&b, " scope %d", r.Scope)
		}
		if r.OnLink {
			b.WriteString(" onlink")
		}
		b.WriteByte('\n')
	}
	for _, n := range n.Neighbours {
		fmt.Fprintf(&b, "neigh add %s lladdr %s dev %s nud permanent\n", n.Address, n.MAC, n.Interface)
	}
	return b.String()
}

// pump carries frames, with their virtio-net headers, between two taps until the
// test ends. Both are told to leave large and unsummed ones as they are, as QEMU
// does for a guest that can.
func pump(t *testing.T, a, b *os.File) {
	t.Helper()
	done := make(chan error, 2)
	for _, way := range [][2]*os.File{{a, b}, {b, a}} {
		err := control(way[0], func(fd int) error {
			return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6)
		})
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- carry(way[0], way[1]) }()
	}
	t.Cleanup(func() {
		a.Close()
		b.Close()
		for range 2 {
			if err := <-done; !errors.Is(err, os.ErrClosed) {
				t.Errorf("carrying frames ended with %v", err)
			}
		}
	})
}

func carry(from, to *os.File) error {
	frame := make([]byte, 1<<17)
	for {
		n, err := from.Read(frame)
		if err != nil {
			return err
		}
		// A card that is down takes none, with EIO.
		if _, err := to.Write(frame[:n]); err != nil && !errors.Is(err, unix.EIO) {
			return err
		}
	}
}

// transfer sends some megabytes over TCP and wants them back.
func transfer(t *testing.T, client, server *Namespace, address string) {
	t.Helper()
	var listener net.Listener
	err := server.inside(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	echoed := make(chan error, 1)
	go func() { echoed <- echo(listener) }()
	defer func() {
		listener.Close()
		if err := <-echoed; err != nil {
			t.Errorf("answering on %s: %v", address, err)
		}
	}()
	var conn net.Conn
	err = client.inside(func() (err error) {
		conn, err = net.DialTimeout("tcp", listener.Addr().String(), waitLimit)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(waitLimit)); err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 4<<20)
	rand.Read(sent)
	wrote := make(chan error, 1)
	go func() {
		_, err := conn.Write(sent)
		wrote <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	}()
	got, err := io.ReadAll(conn)
	if err := errors.Join(err, <-wrote); err != nil {
		t.Errorf("a transfer by %s: %v", address, err)
	}
	if !bytes.Equal(got, sent) {
		t.Errorf("of %d bytes to %s, %d came back, or others", len(sent), address, len(got))
	}
}

// echo sends one connection's bytes back.
func echo(listener net.Listener) error {
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(waitLimit)); err != nil {
		return err
	}
	_, err = io.Copy(conn, conn)
	return err
}
