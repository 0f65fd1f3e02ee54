// Package traffic is what the tests send through a network, by either end: on the
// host and in containers.
//
// A TCP connection begins with a line that says what the server is to do: "echo",
// "send BYTES", or "receive" until its other end has sent all, and then to answer with
// how many bytes there were. A datagram is sent back.
package traffic

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
)

// maxDatagram is what fits into an IPv4 packet.
const maxDatagram = 65507

// Serve serves TCP and UDP at an address until l or packets is closed.
func Serve(l net.Listener, packets net.PacketConn) error {
	failed := make(chan error, 2)
	go func() { failed <- serveDatagrams(packets) }()
	go func() { failed <- serveConnections(l) }()
	err := <-failed
	l.Close()
	packets.Close()
	<-failed
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func serveDatagrams(conn net.PacketConn) error {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		conn.WriteTo(buf[:n], from) // or it is lost, which who waits for it finds
	}
}

func serveConnections(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() { // ends with its connection
			defer conn.Close()
			if err := answer(conn); err != nil {
				fmt.Fprintf(conn, "failed: %v\n", err)
			}
		}()
	}
}

func answer(conn net.Conn) error {
	in := bufio.NewReaderSize(conn, bufferSize)
	line, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	var n int64
	switch _, err := fmt.Sscanf(line, "send %d\n", &n); {
	case err == nil:
		return send(conn, n)
	case line == "receive\n":
		n, err := receive(in)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(conn, "%d\n", n)
		return err
	case line == "echo\n":
		_, err := io.Copy(conn, in)
		return err
	}
	return fmt.Errorf("cannot do %q", line)
}
