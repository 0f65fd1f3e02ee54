package agent

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// receiveFile takes the one file that was sent on a socket, with whatever text.
// It does not wait: the sender must have sent it. The file is made non-blocking.
func receiveFile(socket *os.File) (*os.File, error) {
	text := make([]byte, 4096)
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, flags, _, err := unix.Recvmsg(int(socket.Fd()), text, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("recvmsg: %w", err)
	}
	if n == 0 && oobn == 0 {
		return nil, errors.New("the process sent no terminal")
	}
	fds, err := rightsOf(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 || flags&unix.MSG_CTRUNC != 0 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("the process sent %d files instead of 1", len(fds))
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, fmt.Errorf("setting O_NONBLOCK: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

func rightsOf(oob []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parsing a control message: %w", err)
	}
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, fmt.Errorf("parsing a control message: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}
