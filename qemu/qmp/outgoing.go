package qmp

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// outgoing is a command on its way to QEMU.
type outgoing struct {
	line []byte
	file *os.File // goes along with the line, or nil
}

func (o outgoing) close() {
	if o.file != nil {
		o.file.Close()
	}
}

// writeTo writes the line and closes the file.
//
// QEMU takes a file with the first byte that came with it, keeps it for the next
// command that wants one, and reads no further command before that is done: so
// files of commands that are written one after the other are not mixed up.
func (o outgoing) writeTo(conn net.Conn) error {
	defer o.close()
	line := o.line
	if o.file != nil {
		n, err := writeFile(conn, line, o.file)
		if err != nil {
			return err
		}
		line = line[n:] // a socket may take less than all of it
	}
	_, err := conn.Write(line)
	return err
}

// writeFile writes some of the line, and the file with it.
func writeFile(conn net.Conn, line []byte, file *os.File) (int, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("files can only be sent over a unix socket")
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var failed error
	// The descriptor is good for as long as the function runs.
	err = raw.Control(func(fd uintptr) {
		n, _, failed = socket.WriteMsgUnix(line, unix.UnixRights(int(fd)), nil)
	})
	return n, errors.Join(err, failed)
}

// duplicate returns a second descriptor of an open file.
func duplicate(file *os.File) (*os.File, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("pass %s: %w", file.Name(), err)
	}
	var copied int
	var failed error
	err = raw.Control(func(fd uintptr) {
		copied, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("pass %s: %w", file.Name(), err)
	}
	return os.NewFile(uintptr(copied), file.Name()), nil
}
