package qemu

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// noKernel is a file that passes for a kernel and does nothing, for a machine that
// never boots. QEMU reads its kernel whole when it starts, and a real one takes
// 20 MB and their time.
func noKernel() (*os.File, error) {
	fd, err := unix.MemfdCreate("no-kernel", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a kernel that is none: %w", err)
	}
	f := os.NewFile(uintptr(fd), "no-kernel")
	if _, err := f.Write(haltingKernel()); err != nil {
		f.Close()
		return nil, fmt.Errorf("make a kernel that is none: %w", err)
	}
	return f, nil
}

// haltingKernel is the smallest file that passes for a kernel: an ELF header and a
// note with an entry for PVH boot. QEMU starts it, and it halts.
func haltingKernel() []byte {
	le := binary.LittleEndian
	const (
		headers, note = 64 + 2*56, 20
		entry         = 0x100000
	)
	b := make([]byte, headers+note+16)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)    // executable
	le.PutUint16(b[18:], 0x3e) // x86-64
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[24:], entry)
	le.PutUint64(b[32:], 64) // program headers
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 2)
	segment := func(at int, kind, off, addr, size uint64) {
		le.PutUint32(b[at:], uint32(kind))
		le.PutUint64(b[at+8:], off)
		le.PutUint64(b[at+16:], addr)
		le.PutUint64(b[at+24:], addr)
		le.PutUint64(b[at+32:], size)
		le.PutUint64(b[at+40:], size)
		le.PutUint64(b[at+48:], 4)
	}
	segment(64, 4, headers, 0, note)           // PT_NOTE
	segment(64+56, 1, headers+note, entry, 16) // PT_LOAD
	copy(b[headers:], "\x04\x00\x00\x00\x04\x00\x00\x00\x12\x00\x00\x00Xen\x00")
	le.PutUint32(b[headers+16:], entry)
	copy(b[headers+note:], "\xf4\xeb\xfd") // hlt; jmp to it
	return b
}
