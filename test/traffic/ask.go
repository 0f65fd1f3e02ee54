package traffic

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// patience bounds a short conversation.
const patience = 20 * time.Second

// Fetch has the server at an address send n bytes, and checks them. n is a multiple
// of 8.
func Fetch(address string, n int64, limit time.Duration) error {
	conn, err := dial(address, limit)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "send %d\n", n); err != nil {
		return err
	}
	got, err := receive(conn)
	if err == nil && got != n {
		err = fmt.Errorf("%d bytes of %d came", got, n)
	}
	return err
}

// Deliver sends n bytes to the server at an address, which checks them. n is a
// multiple of 8.
func Deliver(address string, n int64, limit time.Duration) error {
	conn, err := dial(address, limit)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "receive\n"); err != nil {
		return err
	}
	if err := send(conn, n); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	reply, err := io.ReadAll(io.LimitReader(conn, 1<<10))
	if want := fmt.Sprintf("%d\n", n); err == nil && string(reply) != want {
		err = fmt.Errorf("the server says %q, want %q", reply, want)
	}
	return err
}

// Connect makes connections to the server at an address, one after the other, each
// of which says its number and hears it.
func Connect(address string, connections int) error {
	for i := range connections {
		if err := connect(address, i); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	return nil
}

func connect(address string, number int) error {
	conn, err := dial(address, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "echo\n%d\n", number); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if want := fmt.Sprintf("%d\n", number); err == nil && line != want {
		err = fmt.Errorf("it answers %q, want %q", line, want)
	}
	return err
}

func dial(address string, limit time.Duration) (*net.TCPConn, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), conn.SetDeadline(time.Now().Add(limit))
}

// Datagrams sends datagrams of a size to the server at an address, each when the one
// before it is back or given up, and counts those that did not come back in time.
func Datagrams(address string, size, count int) (lost int, err error) {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	for i := range count {
		back, err := exchange(conn, i, size)
		if err != nil {
			return lost, fmt.Errorf("datagram %d of %d bytes: %w", i, size, err)
		}
		if !back {
			lost++
		}
	}
	return lost, nil
}

// datagramTime is when a datagram that is not back is lost.
const datagramTime = 3 * time.Second

func exchange(conn net.Conn, number, size int) (back bool, err error) {
	sent := bytes.Repeat([]byte{byte(number)}, size)
	if _, err := conn.Write(sent); err != nil {
		return false, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(datagramTime)); err != nil {
		return false, err
	}
	buf := make([]byte, maxDatagram)
	for {
		n, err := conn.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return false, nil
		case err != nil:
			return false, err
		case bytes.Equal(buf[:n], sent):
			return true, nil
		case n > 0 && buf[0] == byte(number):
			return false, fmt.Errorf("it came back with %d bytes, or changed", n)
		}
		// One that was given up before: it was late.
	}
}
