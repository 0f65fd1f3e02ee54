package qemu

import (
	"encoding/binary"
	"io"
	"os"
	"testing"

	"github.com/containerd/errdefs"
)

func TestCheckKernel(t *testing.T) {
	change := func(f func(b []byte)) []byte {
		b := haltingKernel()
		f(b)
		return b
	}
	const noteType = 64 + 2*56 + 8
	for _, tc := range []struct {
		name string
		data []byte
		says string // empty for a good one
	}{
		{"good", haltingKernel(), ""},
		{"empty", nil, "vmlinux"},
		{"bzImage", append([]byte("MZ"), make([]byte, 1000)...), "vmlinux"},
		{"other machine", change(func(b []byte) { b[18] = 0xb7 }), "x86-64"},
		{"no PVH", change(func(b []byte) { b[noteType] = 17 }), "PVH"},
		{"cut short", haltingKernel()[:len(haltingKernel())-8], "cut short"},
		{"huge note", change(func(b []byte) { binary.LittleEndian.PutUint32(b[noteType-8:], 1<<31) }), "PVH"},
		{"unaligned note", change(func(b []byte) { b[64+48] = 0 }), "PVH"},
		{"huge segment", change(func(b []byte) { binary.LittleEndian.PutUint64(b[64+56+32:], 1<<62) }), "cut short"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := writeFile(t, "kernel", tc.data, 0o644)
			f, err := openBootFile(path, "guest kernel", checkKernel)
			if tc.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				f.Close()
				return
			}
			checkError(t, err, errdefs.ErrInvalidArgument, path, "guest kernel", tc.says)
		})
	}
}

func TestPrivateBootFileIsCopied(t *testing.T) {
	f, err := openBootFile(writeFile(t, "image", []byte("070701 and more"), 0o600), "guest image", checkImage)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	again, err := os.Open(inherited(int(f.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if b, err := io.ReadAll(again); err != nil || string(b) != "070701 and more" {
		t.Errorf("the copy holds %q, %v", b, err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("the copy can be changed")
	}
}
