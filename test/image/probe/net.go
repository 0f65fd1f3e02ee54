package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// listen serves TCP for good: each connection gets the text, and then back what
// it sends until it has sent all.
func listen(address, text string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if _, err := fmt.Fprintln(conn, text); err == nil {
				io.Copy(conn, conn)
			}
		}()
	}
}

// dial sends stdin over TCP, or to a unix socket by its path, and prints the
// answer.
func dial(address string) error {
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	conn, err := net.DialTimeout(network, address, 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := io.Copy(conn, os.Stdin); err != nil {
		return err
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, conn)
	return err
}

// ping sends one echo request by an ICMP socket of datagrams, and waits for the
// reply.
func ping(address string) error {
	to, err := netip.ParseAddr(address)
	if err != nil || !to.Is4() {
		return fmt.Errorf("%q is no IPv4 address", address)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	if err != nil {
		return fmt.Errorf("making an ICMP socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		return err
	}
	// An echo request; the kernel fills in the id and the sum.
	if err := unix.Sendto(fd, []byte{8, 0, 0, 0, 0, 0, 0, 1}, 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
		return err
	}
	reply := make([]byte, 64)
	if n, _, err := unix.Recvfrom(fd, reply, 0); err != nil || n < 8 || reply[0] != 0 {
		return fmt.Errorf("no echo: %x, %v", reply[:max(n, 0)], err)
	}
	return nil
}

// dials connects to a unix socket that echoes, count times.
func dials(path, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	for i := range n {
		if err := echo(path, fmt.Sprint(i)); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	fmt.Println(n, "echoes")
	return nil
}

func echo(path, word string) error {
	conn, err := net.DialTimeout("unix", path, 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, word); err != nil {
		return err
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && string(answer) != word {
		err = fmt.Errorf("the answer to %q is %q", word, answer)
	}
	return err
}
