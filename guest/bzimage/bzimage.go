// Package bzimage takes the kernel proper out of a compressed x86 Linux image.
//
// QEMU's PVH boot enters an uncompressed ELF kernel directly: it skips the real-mode setup and the
// decompression, which under software emulation cost more than half of the whole boot. Distributions ship
// only bzImages, so Hyper unpacks theirs once, on the host.
package bzimage

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// Offsets into the setup header: Documentation/arch/x86/boot.rst of the kernel has them all.
const (
	offSetupSects    = 0x1f1
	offMagic         = 0x202
	offVersion       = 0x206
	offPayloadOffset = 0x248
	offPayloadLength = 0x24c
	headerEnd        = 0x250

	magic = "HdrS"
	// versionPayload is the first boot protocol that tells where the payload is (2.08, Linux 2.6.26).
	versionPayload = 0x0208
	sector         = 512
)

// MaxKernel bounds what Extract decompresses, in bytes: a damaged image must not fill the memory.
const MaxKernel = 512 << 20

// ErrNotBzImage says that the input does not begin like a kernel image.
var ErrNotBzImage = errors.New("not a bzImage")

// Extract returns the ELF kernel inside a bzImage. It fails with ErrNotBzImage when there is no setup header,
// and otherwise says which part of the image is not as it should be.
func Extract(image []byte) ([]byte, error) {
	payload, err := payloadOf(image)
	if err != nil {
		return nil, err
	}
	// All formats but gzip have the decompressed size appended; gzip ends with the same number by itself.
	want := int64(binary.LittleEndian.Uint32(payload[len(payload)-4:]))
	if want > MaxKernel {
		return nil, fmt.Errorf("kernel of %d bytes is larger than %d", want, int64(MaxKernel))
	}
	r, err := decompressor(payload)
	if err != nil {
		return nil, err
	}
	kernel, err := io.ReadAll(io.LimitReader(r, want))
	if err != nil {
		return nil, fmt.Errorf("decompressing the kernel: %w", err)
	}
	if int64(len(kernel)) != want {
		return nil, fmt.Errorf("kernel has %d bytes, the image says %d", len(kernel), want)
	}
	if !bytes.HasPrefix(kernel, []byte("\x7fELF")) {
		return nil, errors.New("what the image holds is not an ELF kernel")
	}
	return kernel, nil
}

func payloadOf(image []byte) ([]byte, error) {
	if len(image) < headerEnd || string(image[offMagic:offMagic+4]) != magic {
		return nil, ErrNotBzImage
	}
	if v := binary.LittleEndian.Uint16(image[offVersion:]); v < versionPayload {
		return nil, fmt.Errorf("boot protocol %d.%02d does not tell where the kernel is", v>>8, v&0xff)
	}
	setup := int64(image[offSetupSects])
	if setup == 0 {
		setup = 4 // As the boot protocol has it, for the very oldest images.
	}
	begin := (setup+1)*sector + int64(binary.LittleEndian.Uint32(image[offPayloadOffset:]))
	size := int64(binary.LittleEndian.Uint32(image[offPayloadLength:]))
	if size < 8 || begin+size > int64(len(image)) {
		return nil, fmt.Errorf("payload of %d bytes at %d lies outside the image of %d", size, begin, len(image))
	}
	return image[begin : begin+size], nil
}

// decompressor recognises the payload by its first bytes, as the kernel's own tools do.
func decompressor(payload []byte) (io.Reader, error) {
	sized := payload[:len(payload)-4]
	switch {
	case bytes.HasPrefix(payload, []byte{0x1f, 0x8b}):
		return gzip.NewReader(bytes.NewReader(payload))
	case bytes.HasPrefix(payload, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return xz.NewReader(bytes.NewReader(sized))
	case bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstd.NewReader(bytes.NewReader(sized), zstd.WithDecoderMaxWindow(MaxKernel), zstd.WithDecoderConcurrency(1))
	case bytes.HasPrefix(payload, []byte{0x02, 0x21, 0x4c, 0x18}):
		return lz4.NewReader(bytes.NewReader(sized)), nil
	case bytes.HasPrefix(payload, []byte("BZh")):
		return bzip2.NewReader(bytes.NewReader(sized)), nil
	default:
		return nil, fmt.Errorf("payload begins with % x: no known compression", payload[:4])
	}
}
