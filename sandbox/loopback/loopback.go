// Package loopback catches the connections that a process on the host makes to
// the loopback of a sandbox's network namespace. Nobody listens there: who should
// be reached listens on the loopback of the guest, to which they are forwarded.
// This is how "kubectl port-forward" connects.
//
//	process in the namespace ──connect 127.0.0.1:8080──▶ nftables: redirect
//	                                                        │ whatever the port
//	guest's 127.0.0.1:8080 ◀── stream ── Listener.Accept ◀──┘
//
// The rules are in tables of our own and touch nothing else of the namespace.
package loopback

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/process/thread"
)

// Listener has the connections to a namespace's loopback, to whatever TCP port.
type Listener struct {
	listeners []*net.TCPListener
	rules     *rules
	conns     chan accepted
	done      chan struct{}
	closing   sync.Once
	accepting sync.WaitGroup
}

type accepted struct {
	conn *net.TCPConn
	port uint16
}

// Listen begins to catch connections in a network namespace, which stays the
// caller's.
func Listen(namespace *os.File) (*Listener, error) {
	listeners, err := listenIn(namespace)
	if err != nil {
		return nil, fmt.Errorf("listening on a namespace's loopback: %w", err)
	}
	l := &Listener{listeners: listeners, conns: make(chan accepted), done: make(chan struct{})}
	if l.rules, err = redirect(namespace, listeners); err != nil {
		return nil, errors.Join(fmt.Errorf("catching connections to a namespace's loopback: %w", err), l.Close())
	}
	for _, each := range listeners {
		l.accepting.Go(func() { l.accept(each) })
	}
	return l, nil
}

func (l *Listener) accept(from *net.TCPListener) {
	for {
		conn, err := from.AcceptTCP()
		if err != nil {
			return // by Close: nothing else ends a listener
		}
		port, err := askedPort(conn)
		if err != nil {
			conn.Close()
			continue
		}
		select {
		case l.conns <- accepted{conn, port}:
		case <-l.done:
			conn.Close()
		}
	}
}

// Accept waits for the next connection and gives the port that it was made to. It
// returns net.ErrClosed once the listener is closed.
func (l *Listener) Accept() (*net.TCPConn, uint16, error) {
	select {
	case a := <-l.conns:
		return a.conn, a.port, nil
	case <-l.done:
		return nil, 0, net.ErrClosed
	}
}

// Close lets the namespace be as it was. Connections that were accepted go on. It
// may be called again.
func (l *Listener) Close() error {
	var errs []error
	l.closing.Do(func() {
		close(l.done)
		if l.rules != nil {
			errs = append(errs, l.rules.remove())
		}
		for _, each := range l.listeners {
			errs = append(errs, each.Close())
		}
		l.accepting.Wait()
	})
	return errors.Join(errs...)
}

// listenIn makes the sockets in the namespace: they stay there, wherever they are
// used.
func listenIn(namespace *os.File) ([]*net.TCPListener, error) {
	var listeners []*net.TCPListener
	err := thread.Do(func() (err error) {
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering the network namespace: %w", err)
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		listeners, err = listenHere()
		return err
	})
	return listeners, err
}

// loopbackUp sets the loopback up, as nobody may have in a namespace that is new.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("setting the loopback up: %w", err)
	}
	return nil
}

// listenHere listens for each family. A namespace without IPv6 does without.
func listenHere() ([]*net.TCPListener, error) {
	first, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	second, err := net.ListenTCP("tcp6", &net.TCPAddr{IP: net.IPv6loopback})
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
		return []*net.TCPListener{first}, nil
	}
	if err != nil {
		return nil, errors.Join(err, first.Close())
	}
	return []*net.TCPListener{first, second}, nil
}
