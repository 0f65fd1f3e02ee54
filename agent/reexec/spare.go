package reexec

// #include "spare.h"
import "C"

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/runc/libcontainer"
)

const (
	// Spare is the argument of a process that waits to become a container's init.
	Spare = "spare"
	// SpareReady is the descriptor on which it says so, with one byte. It and those
	// that follow, SpareDescriptors in all, must be open: the init's come to be
	// there, and nothing of the Go runtime's may be in their way.
	SpareReady       = 3
	SpareDescriptors = descriptors - SpareReady

	// SpareSocket is where a spare waits, as long as it does. No container has this
	// directory.
	SpareSocket = C.SPARE_SOCKET

	// descriptors is how many an init may have, its standard ones among them.
	descriptors = C.SPARE_DESCRIPTORS
	messageSize = C.SPARE_MESSAGE
)

// spare waits for the process that libcontainer has started as a container's init,
// and takes its place: its descriptors, its environment, and by its doing its
// cgroup. All that Go and libcontainer do before they look at the container has
// been done by then. It returns only if there is nothing to wait for.
//
// It has namespaces of its own for mounts and processes. Those of other kinds are a
// thread's, and what the main thread has is what the container will have.
//
// It makes no use of Go's files, whose poller would open descriptors.
func spare() error {
	socket, err := listen(SpareSocket)
	if err != nil {
		return err
	}
	warm()
	if _, err := unix.Write(SpareReady, []byte{0}); err != nil {
		return fmt.Errorf("telling that the spare init is ready: %w", err)
	}
	for {
		conn, _, err := unix.Accept4(socket, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err != nil {
			return fmt.Errorf("waiting to become an init: %w", err)
		}
		taken, err := takePlace(conn)
		if err != nil {
			return err // who asked sees the end, and goes on without a spare
		}
		if taken {
			_ = unix.Close(socket)
			libcontainer.Init()
		}
		// Who came had no use for a spare.
		_ = unix.Close(conn)
	}
}

func listen(path string) (int, error) {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("making the spare init's socket: %w", err)
	}
	// One that is gone has left it.
	if err := unix.Unlink(path); err != nil && err != unix.ENOENT {
		return 0, fmt.Errorf("removing the socket of an earlier spare init: %w", err)
	}
	if err := unix.Bind(socket, &unix.SockaddrUnix{Name: path}); err != nil {
		return 0, fmt.Errorf("binding the spare init's socket: %w", err)
	}
	if err := unix.Listen(socket, 1); err != nil {
		return 0, fmt.Errorf("listening on the spare init's socket: %w", err)
	}
	return socket, nil
}

// takePlace greets the other, receives what makes this process its successor, and
// answers when it is. It is false if the other has hung up.
func takePlace(conn int) (bool, error) {
	if err := unix.Send(conn, []byte{0}, unix.MSG_NOSIGNAL); err != nil {
		return false, nil
	}
	message, control := make([]byte, messageSize), make([]byte, unix.CmsgSpace(descriptors*4))
	n, oobn, flags, _, err := unix.Recvmsg(conn, message, control, unix.MSG_CMSG_CLOEXEC)
	if errors.Is(err, unix.ECONNRESET) {
		return false, nil // its greeting unread
	}
	if err != nil {
		return false, fmt.Errorf("receiving an init's place: %w", err)
	}
	if n == 0 {
		return false, nil
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return false, errors.New("receiving an init's place: it is too large")
	}
	fds, err := received(control[:oobn])
	if err != nil {
		return false, err
	}
	place, err := parsePlace(message[:n])
	if err != nil {
		return false, err
	}
	if err := place.take(fds); err != nil {
		return false, err
	}
	// No one will come here any more.
	if err := unix.Unlink(SpareSocket); err != nil {
		return false, fmt.Errorf("removing the spare init's socket: %w", err)
	}
	if err := unix.Send(conn, []byte{0}, unix.MSG_NOSIGNAL); err != nil {
		return false, fmt.Errorf("answering for an init: %w", err)
	}
	switch n, err := unix.Read(conn, message); {
	case err != nil:
		return false, fmt.Errorf("waiting for the word to be an init: %w", err)
	case n == 0:
		return false, errors.New("nobody gave the word to be an init")
	}
	return true, unix.Close(conn)
}

func received(control []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("receiving an init's descriptors: %d messages: %w", len(messages), err)
	}
	return unix.ParseUnixRights(&messages[0])
}

// place is what an init has beside its descriptors.
type place struct {
	namespaces  int // flags of unshare(2)
	directory   string
	environment []string
}

// parsePlace reads the message that spare.c writes: flags (4), the length of the
// directory (4), the directory, then the environment, each entry with a zero.
func parsePlace(message []byte) (place, error) {
	if len(message) < 8 {
		return place{}, fmt.Errorf("an init's place of %d bytes", len(message))
	}
	flags, length := binary.NativeEndian.Uint32(message), binary.NativeEndian.Uint32(message[4:])
	rest := message[8:]
	if uint64(length) > uint64(len(rest)) {
		return place{}, fmt.Errorf("an init's directory of %d bytes in %d", length, len(rest))
	}
	p := place{namespaces: int(flags), directory: string(rest[:length])}
	for entry := range bytes.SplitSeq(rest[length:], []byte{0}) {
		if len(entry) > 0 {
			p.environment = append(p.environment, string(entry))
		}
	}
	return p, nil
}

func (p place) take(fds []int) error {
	for i, fd := range fds {
		if err := unix.Dup3(fd, i, 0); err != nil {
			return fmt.Errorf("taking an init's descriptor %d: %w", i, err)
		}
		if err := unix.Close(fd); err != nil {
			return fmt.Errorf("taking an init's descriptor %d: %w", i, err)
		}
	}
	if err := unix.CloseRange(uint(len(fds)), descriptors-1, 0); err != nil {
		return fmt.Errorf("closing what kept an init's descriptors free: %w", err)
	}
	if err := unix.Unshare(p.namespaces); err != nil {
		return fmt.Errorf("making an init's namespaces: %w", err)
	}
	if err := unix.Chdir(p.directory); err != nil {
		return fmt.Errorf("going to an init's directory: %w", err)
	}
	os.Clearenv()
	for _, entry := range p.environment {
		name, value, _ := strings.Cut(entry, "=")
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("taking an init's environment: %w", err)
		}
	}
	return nil
}
