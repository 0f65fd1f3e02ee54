package bzimage

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

var kernel = append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel "), 5000)...)

// wrap makes an image as the kernel's build does: setup code, then the payload with its size behind it.
func wrap(payload []byte, size int, appendSize bool) []byte {
	const setupSects, offset = 3, 0x100
	if appendSize {
		payload = binary.LittleEndian.AppendUint32(bytes.Clone(payload), uint32(size))
	}
	image := make([]byte, (setupSects+1)*sector+offset)
	image[offSetupSects] = setupSects
	copy(image[offMagic:], magic)
	binary.LittleEndian.PutUint16(image[offVersion:], 0x020f)
	binary.LittleEndian.PutUint32(image[offPayloadOffset:], offset)
	binary.LittleEndian.PutUint32(image[offPayloadLength:], uint32(len(payload)))
	image = append(image, payload...)
	return append(image, "signature"...)
}

func images(t testing.TB) map[string][]byte {
	t.Helper()
	var gz, xzed, lz bytes.Buffer
	g := gzip.NewWriter(&gz)
	g.Write(kernel)
	g.Close()
	x, err := xz.NewWriter(&xzed)
	if err != nil {
		t.Fatal(err)
	}
	x.Write(kernel)
	x.Close()
	l := lz4.NewWriter(&lz)
	if err := l.Apply(lz4.LegacyOption(true)); err != nil {
		t.Fatal(err)
	}
	l.Write(kernel)
	l.Close()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"gzip": wrap(gz.Bytes(), len(kernel), false),
		"xz":   wrap(xzed.Bytes(), len(kernel), true),
		"lz4":  wrap(lz.Bytes(), len(kernel), true),
		"zstd": wrap(z.EncodeAll(kernel, nil), len(kernel), true),
	}
}

func TestExtract(t *testing.T) {
	for name, image := range images(t) {
		got, err := Extract(image)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(got, kernel) {
			t.Errorf("%s: %d bytes that are not the kernel", name, len(got))
		}
	}
}

func TestExtractSaysWhatIsWrong(t *testing.T) {
	good := images(t)["zstd"]
	damage := func(do func([]byte)) []byte {
		image := bytes.Clone(good)
		do(image)
		return image
	}
	for _, c := range []struct {
		name  string
		image []byte
		want  string
	}{
		{"empty", nil, ErrNotBzImage.Error()},
		{"ELF", kernel, ErrNotBzImage.Error()},
		{"old protocol", damage(func(b []byte) { b[offVersion] = 4 }), "boot protocol 2.04"},
		{"truncated", good[:len(good)-20], "outside the image"},
		{"huge", damage(func(b []byte) {
			binary.LittleEndian.PutUint32(b[len(b)-len("signature")-4:], 1<<31)
		}), "larger than"},
		{"damaged", damage(func(b []byte) { b[4*sector+0x100+30] ^= 0xff }), ""},
		{"unknown", wrap([]byte("hello, world"), 12, true), "no known compression"},
		{"too short", damage(func(b []byte) {
			binary.LittleEndian.PutUint32(b[len(b)-len("signature")-4:], uint32(len(kernel)+1))
		}), "the image says"},
	} {
		_, err := Extract(c.image)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v, want one that says %q", c.name, err, c.want)
		}
	}
	if _, err := Extract(nil); !errors.Is(err, ErrNotBzImage) {
		t.Errorf("error is %v, want ErrNotBzImage", err)
	}
}

func FuzzExtract(f *testing.F) {
	// The other two formats clear buffers of eight megabytes a time: too slow to find anything here.
	seeds := images(f)
	f.Add(seeds["gzip"])
	f.Add(seeds["zstd"])
	f.Fuzz(func(t *testing.T, image []byte) {
		// A damaged image may say that it holds half a gigabyte; that is not what is looked for here.
		if len(image) > 4 {
			if p, err := payloadOf(image); err == nil && binary.LittleEndian.Uint32(p[len(p)-4:]) > 1<<22 {
				return
			}
		}
		kernel, err := Extract(image)
		if err == nil && !bytes.HasPrefix(kernel, []byte("\x7fELF")) {
			t.Fatal("extracted something that is no kernel")
		}
	})
}
