package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/virtiofsd"
	"github.com/hyperhq/hyper/virtcontainers"
)

// memfd makes a file in memory, of a size in bytes.
func memfd(t *testing.T, size int64) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "test")
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return f
}

// sealed returns a copy of a file that nobody can change.
func sealed(t *testing.T, f *os.File) *os.File {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	c := memfd(t, info.Size())
	if err := copyMemory(c, f); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(c.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		t.Fatal(err)
	}
	return c
}

func sum(t *testing.T, f *os.File) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<40)); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// save boots a template of spec, asks it something, and saves it.
func save(t *testing.T, d *Driver, spec virtcontainers.VMSpec) virtcontainers.Saved {
	t.Helper()
	memory, state := memfd(t, int64(spec.MemoryMiB<<20)), memfd(t, 0)
	vm, err := d.StartTemplate(t.Context(), spec, memory)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill(t.Context())
	g := connect(t, vm)
	if got := g.ask(t, "ping", "template"); got != "template" {
		t.Errorf("the template answers %q", got)
	}
	begin := time.Now()
	if err := vm.Save(t.Context(), state); err != nil {
		t.Fatalf("%v\n%s", err, vm.Log())
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(memory.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	size, _ := state.Seek(0, io.SeekEnd)
	t.Logf("saved in %v: memory %d KiB, state %d KiB", time.Since(begin), st.Blocks/2, size>>10)
	return virtcontainers.Saved{Memory: sealed(t, memory), State: sealed(t, state)}
}

// clone starts a clone that ends with the test.
func clone(t *testing.T, d *Driver, spec virtcontainers.VMSpec, saved virtcontainers.Saved) *guest {
	t.Helper()
	spec.Dir = t.TempDir()
	vm, err := d.StartClone(t.Context(), spec, saved)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := vm.Kill(ctx); err != nil {
			t.Error(err)
		}
	})
	return connect(t, vm)
}

func TestClones(t *testing.T) {
	d := newDriver(t, Config{})
	kernels(t, func(t *testing.T, spec virtcontainers.VMSpec) {
		spec.Shared = true
		saved := save(t, d, spec)
		before := sum(t, saved.Memory)

		begin := time.Now()
		g := clone(t, d, spec, saved)
		t.Logf("cloned after %v", time.Since(begin))
		g.ask(t, "ping", "a")
		t.Logf("answered after %v", time.Since(begin))
		for range 3 {
			dir, daemon := share(t)
			write(t, dir+"/file", "shared")
			with := spec
			with.Share = &virtcontainers.Share{Tag: "test", Socket: daemon.Socket}
			begin = time.Now()
			g = clone(t, d, with, saved)
			t.Logf("cloned with a share after %v", time.Since(begin))
			g.ask(t, "ping", "b")
			t.Logf("answered after %v", time.Since(begin))
			for {
				if _, err := g.try("mount", "virtiofs", "test", "/share"); err == nil {
					break
				}
			}
			t.Logf("mounted after %v", time.Since(begin))
			if got := g.ask(t, "cat", "/share/file"); got != "shared" {
				t.Errorf("the guest reads %q", got)
			}
		}
		if after := sum(t, saved.Memory); after != before {
			t.Error("the template's memory has changed")
		}
	})
}

var _ = virtiofsd.Config{}
