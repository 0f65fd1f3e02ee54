package pool

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxMessage bounds a message, in bytes: an environment may have two MiB.
const maxMessage = 8 << 20

// writeMessage writes a message as JSON after its length, and a file beside it if that
// is not nil.
func writeMessage(conn *net.UnixConn, message any, file *os.File) error {
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(data) > maxMessage {
		return fmt.Errorf("a message of %d bytes, at most %d", len(data), maxMessage)
	}
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	// The file goes with the first bytes.
	if _, _, err := conn.WriteMsgUnix(binary.BigEndian.AppendUint32(nil, uint32(len(data))), rights, nil); err != nil {
		return err
	}
	_, err = conn.Write(data)
	return err
}

// readMessage reads a message, and the file beside it, which may be nil.
func readMessage(conn *net.UnixConn, message any) (_ *os.File, err error) {
	head, control := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
	n, controlled, _, _, err := conn.ReadMsgUnix(head, control)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return nil, err
	}
	file, err := fileOf(control[:controlled])
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close() // also of none
		}
	}()
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes, at most %d", size, maxMessage)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(conn, data); err != nil {
		return nil, err
	}
	return file, json.Unmarshal(data, message)
}

// fileOf is the file that came with a message, nil if none did.
func fileOf(control []byte) (*os.File, error) {
	if len(control) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(fmt.Errorf("%d control messages", len(messages)), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(fmt.Errorf("%d files", len(fds)), err)
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "socket of a claim"), nil
}

// peerOf is the process at the other end of a connection: of a listener, the one that
// made it. It must be of this process's user.
func peerOf(conn *net.UnixConn) (pid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(cerr, err); err != nil {
		return 0, err
	}
	if int(peer.Uid) != os.Geteuid() {
		return 0, fmt.Errorf("the other end is a process of user %d", peer.Uid)
	}
	return int(peer.Pid), nil
}
