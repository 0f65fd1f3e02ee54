package reexec

// #include <stdlib.h>
// #include "usher_parts.h"
//
// static int usher_is_well_formed(char *message, size_t size)
// {
//	struct usher_parsed parsed;
//
//	return usher_parse(&parsed, message, size) == 0;
// }
import "C"

import "unsafe"

const (
	// UsherWaits is what is read from the status stream of a container's init when it waits
	// to execute its program, and UsherGoes when it does.
	UsherWaits = C.USHER_WAITS
	UsherGoes  = C.USHER_GOES
)

// Build is a container that the usher makes, with its init. All paths are clean.
type Build struct {
	Entry

	Namespaces  uintptr // to make, flags of clone(2)
	JoinPIDs    bool    // its PID namespace is EntryFiles.Init
	Loopback    bool    // its own network's is set up
	Rootfs      string
	Propagation uint32 // of its root, flags of mount(2); 0: none is set
	Readonly    bool   // the root
	Mounts      []BuildMount
	Nodes       bool // /dev is filled, with Devices and what else belongs there
	Devices     []BuildDevice

	Hostname, Domainname       string // "": the namespace's
	ReadonlyPaths, MaskedPaths []string
	Sysctls                    []BuildSysctl
}

// BuildMount is a mount in a container that is made.
type BuildMount struct {
	Source, Target, Type, Data string
	Flags                      uintptr // of mount(2)
	Propagation                uint32  // flags of mount(2); 0: none is set
	Bind                       bool
	Attributes                 bool // a bind's are those of Flags
	ReadonlyLater              bool // when all is made
	NoLinks                    bool // on the way to the target
	TargetsMode                bool // its root has that of what it is mounted on
}

// BuildDevice is a node in a container that is made.
type BuildDevice struct {
	Path           string
	Number         uint64
	Mode, UID, GID uint32 // Mode has the type
}

// BuildSysctl is a parameter of a namespace of the container's own.
type BuildSysctl struct{ Name, Value string } // Name is a path below /proc/sys

// Encode is the message that asks the usher for it.
func (b *Build) Encode() ([]byte, error) { return b.encode(b) }

// encodeHead, encodeParts and encodeStrings append what a container has of a message. Of
// none they append nothing.
func (b *Build) encodeHead(m *message) {
	if b == nil {
		return
	}
	head := C.struct_usher_build{
		namespaces: C.uint32_t(b.Namespaces), flags: C.uint32_t(b.flags()), propagation: C.uint32_t(b.Propagation),
		mounts: C.uint32_t(len(b.Mounts)), devices: C.uint32_t(len(b.Devices)),
		readonly: C.uint32_t(len(b.ReadonlyPaths)), masked: C.uint32_t(len(b.MaskedPaths)),
		sysctls: C.uint32_t(len(b.Sysctls)),
	}
	m.fixed(unsafe.Pointer(&head), unsafe.Sizeof(head))
}

func (b *Build) encodeParts(m *message) {
	if b == nil {
		return
	}
	for _, mount := range b.Mounts {
		part := C.struct_usher_mount{
			flags: C.uint64_t(mount.Flags), propagation: C.uint32_t(mount.Propagation), how: C.uint32_t(mount.how()),
		}
		m.fixed(unsafe.Pointer(&part), unsafe.Sizeof(part))
	}
	for _, d := range b.Devices {
		part := C.struct_usher_device{
			number: C.uint64_t(d.Number), mode: C.uint32_t(d.Mode), uid: C.uint32_t(d.UID), gid: C.uint32_t(d.GID),
		}
		m.fixed(unsafe.Pointer(&part), unsafe.Sizeof(part))
	}
}

func (b *Build) encodeStrings(m *message) {
	if b == nil {
		return
	}
	m.strings(b.Rootfs, b.Hostname, b.Domainname)
	for _, mount := range b.Mounts {
		m.strings(mount.Source, mount.Target, mount.Type, mount.Data)
	}
	for _, d := range b.Devices {
		m.strings(d.Path)
	}
	m.strings(b.ReadonlyPaths...)
	m.strings(b.MaskedPaths...)
	for _, s := range b.Sysctls {
		m.strings(s.Name, s.Value)
	}
}

func (b *Build) flags() int {
	return flagsOf([]flag{
		{b.JoinPIDs, C.USHER_JOIN_PIDS},
		{b.Loopback, C.USHER_LOOPBACK},
		{b.Nodes, C.USHER_NODES},
		{b.Readonly, C.USHER_READONLY_ROOT},
	})
}

func (m *BuildMount) how() int {
	return flagsOf([]flag{
		{m.Bind, C.USHER_MOUNT_BIND},
		{m.Attributes, C.USHER_MOUNT_ATTRIBUTES},
		{m.ReadonlyLater, C.USHER_MOUNT_READONLY},
		{m.NoLinks, C.USHER_MOUNT_NO_LINKS},
		{m.TargetsMode, C.USHER_MOUNT_MODE},
	})
}

// isWellFormed says whether the usher can take a request apart.
func isWellFormed(request []byte) bool {
	if len(request) == 0 || len(request) > maxEntry {
		return false
	}
	message := C.CBytes(request)
	defer C.free(message)
	return C.usher_is_well_formed((*C.char)(message), C.size_t(len(request))) != 0
}
