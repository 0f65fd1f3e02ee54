package reexec

// #include "usher.h"
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// Usher is the argument of the process that makes others in containers, which
	// has its socket as descriptor UsherSocket. See usher.c.
	Usher       = C.USHER
	UsherSocket = C.USHER_SOCKET

	maxEntry        = C.USHER_MESSAGE
	maxEntryStrings = C.USHER_STRINGS
)

// ErrEntryTooLarge is that of an entry with more arguments and variables than the usher
// takes.
var ErrEntryTooLarge = errors.New("too many arguments and variables for the usher")

// Entry is what a process is to be in a container, and what it is to execute.
type Entry struct {
	Args        []string // Args[0] is looked up in the PATH of Environment
	Environment []string // each name once
	Directory   string
	Keyring     string // of the session; "": none is joined
	UID, GID    uint32
	Groups      []uint32
	Limits      []Limit
	// Capabilities, a bit each.
	Bounding, Effective, Permitted, Inheritable, Ambient uint64

	NoNewPrivileges bool
	FindHome        bool    // HOME is what the container's users file says
	Umask           *uint32 // nil: the agent's
	OOMScoreAdj     *int    // nil: the agent's
}

// Limit is a limit of a process, in what setrlimit(2) takes.
type Limit struct {
	Resource   int
	Soft, Hard uint64
}

// EntryFiles are what the usher needs of a container, and what the process begins with.
// Their order is that of usher.h.
type EntryFiles struct {
	// Init is whose namespaces are joined. For a container that is made it is the PID
	// namespace to join, or any file.
	Init, Cgroup, Status  int
	Stdin, Stdout, Stderr int
}

// Rights is the control message that hands the files to the usher.
func (f EntryFiles) Rights() []byte {
	return unix.UnixRights(f.Init, f.Cgroup, f.Status, f.Stdin, f.Stdout, f.Stderr)
}

// Encode is the message that asks the usher for it. What has a zero in it must have been
// refused before.
func (e *Entry) Encode() ([]byte, error) { return e.encode(nil) }

// encode is the message for it in a container: one that there is, or b, which it makes.
func (e *Entry) encode(b *Build) ([]byte, error) {
	head := C.struct_usher_request{
		bounding: C.uint64_t(e.Bounding), effective: C.uint64_t(e.Effective), permitted: C.uint64_t(e.Permitted),
		inheritable: C.uint64_t(e.Inheritable), ambient: C.uint64_t(e.Ambient),
		flags: C.uint32_t(e.flags()), uid: C.uint32_t(e.UID), gid: C.uint32_t(e.GID),
		groups: C.uint32_t(len(e.Groups)), limits: C.uint32_t(len(e.Limits)),
		args: C.uint32_t(len(e.Args)), variables: C.uint32_t(len(e.Environment)),
	}
	if e.Umask != nil {
		head.umask = C.uint32_t(*e.Umask)
	}
	if e.OOMScoreAdj != nil {
		head.oom_score_adj = C.int32_t(*e.OOMScoreAdj)
	}
	if len(e.Args)+len(e.Environment) > maxEntryStrings {
		return nil, ErrEntryTooLarge
	}
	var m message
	if b != nil {
		head.flags |= C.USHER_BUILD
	}
	m.fixed(unsafe.Pointer(&head), unsafe.Sizeof(head))
	b.encodeHead(&m)
	for _, group := range e.Groups {
		m.bytes = binary.NativeEndian.AppendUint32(m.bytes, group)
	}
	if len(e.Groups)%2 == 1 {
		m.bytes = binary.NativeEndian.AppendUint32(m.bytes, 0)
	}
	for _, l := range e.Limits {
		limit := C.struct_usher_limit{C.uint64_t(l.Resource), C.uint64_t(l.Soft), C.uint64_t(l.Hard)}
		m.fixed(unsafe.Pointer(&limit), unsafe.Sizeof(limit))
	}
	b.encodeParts(&m)
	m.strings(e.Directory, e.Keyring)
	m.strings(e.Args...)
	m.strings(e.Environment...)
	b.encodeStrings(&m)
	if len(m.bytes) > maxEntry {
		return nil, ErrEntryTooLarge
	}
	return m.bytes, m.err
}

// message is one that is being put together.
type message struct {
	bytes []byte
	err   error // the first
}

// fixed appends a structure of C's.
func (m *message) fixed(p unsafe.Pointer, size uintptr) {
	m.bytes = append(m.bytes, unsafe.Slice((*byte)(p), size)...)
}

func (m *message) strings(list ...string) {
	for _, s := range list {
		if m.err == nil && strings.IndexByte(s, 0) >= 0 {
			m.err = fmt.Errorf("%.40q has a zero in it", s)
		}
		m.bytes = append(append(m.bytes, s...), 0)
	}
}

func (e *Entry) flags() int {
	return flagsOf([]flag{
		{e.NoNewPrivileges, C.USHER_NO_NEW_PRIVILEGES},
		{e.Umask != nil, C.USHER_UMASK},
		{e.OOMScoreAdj != nil, C.USHER_OOM_SCORE_ADJ},
		{e.FindHome, C.USHER_HOME},
	})
}

// flag is one that is set or not.
type flag struct {
	set bool
	bit int
}

func flagsOf(list []flag) (flags int) {
	for _, f := range list {
		if f.set {
			flags |= f.bit
		}
	}
	return flags
}

// EntryPID is the usher's answer: the pid of the process that it has made.
func EntryPID(answer []byte) (int, error) {
	if len(answer) != 4 {
		return 0, fmt.Errorf("an answer of %d bytes from the usher", len(answer))
	}
	pid := int32(binary.NativeEndian.Uint32(answer))
	if pid <= 0 {
		return 0, fmt.Errorf("the usher: %w", unix.Errno(-pid))
	}
	return int(pid), nil
}

// EntryFailure says what is read from the status stream: nil, if that is nothing, which is
// when the program was executed, or the process killed before it could tell.
func EntryFailure(status []byte) error {
	switch len(status) {
	case 0:
		return nil
	case int(unsafe.Sizeof(C.struct_usher_failure{})):
		line, errno := binary.NativeEndian.Uint32(status), binary.NativeEndian.Uint32(status[4:])
		file, _, _ := strings.Cut(string(status[8:]), "\x00")
		return fmt.Errorf("entering the container (%q:%d): %w", file, line, unix.Errno(errno))
	}
	return fmt.Errorf("a failure of %d bytes from a process that enters a container", len(status))
}
