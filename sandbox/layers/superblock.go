package layers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// Where in an EROFS image its superblock is, and what of it counts here, in bytes. See
// fs/erofs/erofs_fs.h of Linux.
const (
	erofsOffset    = 1024
	erofsMagic     = 0xE0F5E1E2
	erofsBlockBits = 12
	erofsBlock     = 1 << erofsBlockBits

	atMagic, atChecksum, atCompat = 0, 4, 8
	atBlockBits, atBlocks         = 12, 36

	compatChecksum = 1 // the superblock has a checksum
)

// checkImage checks that an image is one, that its superblock is what was written,
// and that it is as long as that says. What is in its files is not looked at: that
// would take longer than the container.
func checkImage(f *os.File) error {
	var block [erofsBlock]byte
	if _, err := f.ReadAt(block[:], 0); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading its superblock: %w", err)
	}
	super := block[erofsOffset:]
	field := func(at int) uint32 { return binary.LittleEndian.Uint32(super[at:]) }
	if field(atMagic) != erofsMagic || field(atCompat)&compatChecksum == 0 || super[atBlockBits] != erofsBlockBits {
		return errors.New("it has no superblock with a checksum")
	}
	blocks, want := field(atBlocks), field(atChecksum)
	clear(super[atChecksum : atChecksum+4])
	// EROFS takes neither of the usual inversions at the ends.
	if got := ^crc32.Update(0, crc32.MakeTable(crc32.Castagnoli), super); got != want {
		return fmt.Errorf("its superblock has the checksum %08x, not %08x", got, want)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if got, want := info.Size(), int64(blocks)*erofsBlock; got != want {
		return fmt.Errorf("it has %d bytes, not %d", got, want)
	}
	return nil
}
