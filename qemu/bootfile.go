package qemu

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// openBootFile opens a file that QEMU loads, for QEMU to open again as
// /proc/self/fd/N: so the directories on its path need not be open to QEMU's user.
// The file itself must be readable to that user; one that is not is copied into
// memory. what names the file's role in errors.
func openBootFile(path, what string, check func(*os.File) error) (_ *os.File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s %s: %w", what, path, err)
		}
	}()
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("does not exist: build or install it, or name another in the configuration: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot be opened: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("is no regular file: %w", errdefs.ErrInvalidArgument)
	}
	if err == nil && check != nil {
		err = check(f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	if info.Mode().Perm()&0o004 != 0 {
		return f, nil
	}
	defer f.Close()
	return copyToMemory(f, info)
}

// copyToMemory returns a copy of a file that every user who has the descriptor
// can read and none can change.
func copyToMemory(f *os.File, info os.FileInfo) (*os.File, error) {
	fd, err := unix.MemfdCreate(info.Name(), unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make a copy in memory: %w", err)
	}
	m := os.NewFile(uintptr(fd), info.Name())
	_, err = io.Copy(m, io.NewSectionReader(f, 0, info.Size()))
	if err == nil {
		_, err = unix.FcntlInt(m.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("make a copy in memory: %w", err)
	}
	return m, nil
}

// checkKernel refuses what QEMU would only fail on later, with less to say: a
// kernel must be a complete ELF program for x86-64 with an entry for PVH boot.
func checkKernel(f *os.File) error {
	const hint = "build one with `make kernel`, or unpack the distribution's"
	k, err := elf.NewFile(f)
	if err != nil {
		return fmt.Errorf("is not an uncompressed kernel (vmlinux): %w: %s: %w", err, hint, errdefs.ErrInvalidArgument)
	}
	if k.Class != elf.ELFCLASS64 || k.Machine != elf.EM_X86_64 {
		return fmt.Errorf("is not an x86-64 kernel (%v, %v): %s: %w", k.Class, k.Machine, hint, errdefs.ErrInvalidArgument)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := uint64(info.Size())
	entry := false
	for _, p := range k.Progs {
		if p.Off > size || p.Filesz > size-p.Off {
			return fmt.Errorf("is cut short: %s: %w", hint, errdefs.ErrInvalidArgument)
		}
		// QEMU divides by a note's alignment.
		if p.Type == elf.PT_NOTE && p.Filesz <= maxNotes && p.Align != 0 {
			entry = entry || hasPVHEntry(p.Open())
		}
	}
	if !entry {
		return fmt.Errorf("has no entry for PVH boot (CONFIG_PVH): %s: %w", hint, errdefs.ErrInvalidArgument)
	}
	return nil
}

const (
	// maxNotes bounds a kernel's notes, in bytes; real ones have a few hundred.
	maxNotes = 64 << 10
	// notePVHEntry is XEN_ELFNOTE_PHYS32_ENTRY of the owner "Xen".
	notePVHEntry = 18
)

// hasPVHEntry looks for the note that tells the physical address of the entry.
func hasPVHEntry(notes io.Reader) bool {
	for {
		var header struct{ NameSize, DescSize, Type uint32 }
		if binary.Read(notes, binary.LittleEndian, &header) != nil || header.NameSize > maxNotes || header.DescSize > maxNotes {
			return false
		}
		body := make([]byte, aligned(header.NameSize)+aligned(header.DescSize))
		if _, err := io.ReadFull(notes, body); err != nil {
			return false
		}
		if header.Type == notePVHEntry && header.DescSize >= 4 && bytes.HasPrefix(body, []byte("Xen\x00")) && header.NameSize == 4 {
			return true
		}
	}
}

// aligned rounds up to the 4 bytes to which the parts of a note are aligned.
func aligned(n uint32) uint32 { return (n + 3) &^ 3 }

// checkImage refuses what no kernel can unpack as an initial RAM file system.
func checkImage(f *os.File) error {
	magic := make([]byte, 6)
	if _, err := f.ReadAt(magic, 0); err != nil {
		return fmt.Errorf("is empty or cannot be read: build it with `make`: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	for _, known := range []string{
		"070701", "070702", // cpio
		"\x1f\x8b", "\x28\xb5\x2f\xfd", "\xfd7zXZ\x00", "\x02\x21\x4c\x18", "BZh", // gzip, zstd, xz, lz4, bzip2
	} {
		if bytes.HasPrefix(magic, []byte(known)) {
			return nil
		}
	}
	return fmt.Errorf("is no initial RAM file system: build it with `make`: %w", errdefs.ErrInvalidArgument)
}
