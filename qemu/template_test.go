package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

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
	if _, err := io.Copy(io.NewOffsetWriter(c, 0), io.NewSectionReader(f, 0, info.Size())); err != nil {
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

// again gives what was saved to one more clone: the state is read from its beginning.
func again(t *testing.T, saved virtcontainers.Saved) virtcontainers.Saved {
	t.Helper()
	saved.State = sealed(t, saved.State)
	return saved
}

// private gives what was saved to a clone that has the memory for itself.
func private(t *testing.T, saved virtcontainers.Saved) virtcontainers.Saved {
	t.Helper()
	template := saved.Memory
	info, err := template.Stat()
	if err != nil {
		t.Fatal(err)
	}
	own := memfd(t, info.Size())
	saved = again(t, saved)
	saved.Memory, saved.Private = own, true
	saved.Fill = func() error {
		_, err := io.Copy(io.NewOffsetWriter(own, 0), io.NewSectionReader(template, 0, info.Size()))
		return err
	}
	return saved
}

// clone starts a clone that ends with the test.
func clone(t *testing.T, d *Driver, spec virtcontainers.VMSpec, saved virtcontainers.Saved) *guest {
	t.Helper()
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

// TestClones has clones of either kind at the same time, which fill their memory.
func TestClones(t *testing.T) {
	d := newDriver(t, Config{})
	kernels(t, func(t *testing.T, spec virtcontainers.VMSpec) {
		spec.Shared = true
		saved := save(t, d, spec)
		before := sum(t, saved.Memory)

		dir, daemon := share(t)
		write(t, filepath.Join(dir, "file"), "shared")
		with := spec
		with.Share = &virtcontainers.Share{Tag: "test,share", Socket: daemon.Socket}
		clones := []*guest{
			clone(t, d, spec, again(t, saved)),
			clone(t, d, spec, again(t, saved)),
			clone(t, d, with, private(t, saved)),
		}
		for i, g := range clones {
			name := fmt.Sprint("clone", i)
			if got := g.ask(t, "ping", name); got != name {
				t.Errorf("%s answers %q", name, got)
			}
			g.ask(t, "write", "/name", name)
			g.ask(t, "fill", "/rest", "60")
		}
		for i, g := range clones {
			if got, want := g.ask(t, "cat", "/name"), fmt.Sprint("clone", i); got != want {
				t.Errorf("%s reads %q", want, got)
			}
		}
		checkShare(t, clones[2])
		if after := sum(t, saved.Memory); after != before {
			t.Error("clones have changed the template's memory")
		}
	})
}

// checkShare reads the share of a clone, once its guest has found the device.
func checkShare(t *testing.T, g *guest) {
	t.Helper()
	deadline := time.Now().Add(bootTimeout)
	for {
		_, err := g.try("mount", "virtiofs", "test,share", "/share")
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the guest finds no share: %v", err)
		}
	}
	if got := g.ask(t, "cat", "/share/file"); got != "shared" {
		t.Errorf("the guest reads %q", got)
	}
}

// TestCloneGivesAndTakesMemory: a clone is given the devices for it while it runs.
func TestCloneGivesAndTakesMemory(t *testing.T) {
	d := newDriver(t, Config{})
	spec := testSpec(t)
	spec.Shared, spec.MaxMemoryMiB = true, 512
	saved := save(t, d, spec)
	own := clone(t, d, spec, private(t, saved))
	if err := own.vm.ReclaimMemory(t.Context()); err != nil {
		t.Error(err)
	}
	shared := clone(t, d, spec, again(t, saved))
	if err := shared.vm.ReclaimMemory(t.Context()); !errdefs.IsNotImplemented(err) {
		t.Errorf("to make holes in the template's memory: %v", err)
	}
	for _, g := range []*guest{own, shared} {
		if got, err := g.vm.ResizeMemory(t.Context(), 128); err != nil || got != 128 {
			t.Errorf("the size that it has: %d MiB, %v", got, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
		defer cancel()
		if got, err := g.vm.ResizeMemory(ctx, 256); err != nil || got < 256 {
			t.Errorf("grown to %d MiB, %v\n%s", got, err, g.vm.Log())
		}
		if _, err := g.vm.ResizeMemory(t.Context(), 1024); !errdefs.IsResourceExhausted(err) {
			t.Errorf("more than it may have: %v", err)
		}
	}
}

func TestCloneErrors(t *testing.T) {
	d := newDriver(t, Config{Accel: AccelTCG})
	spec := goodSpec(t)
	memory := memfd(t, int64(spec.MemoryMiB<<20))
	small := memfd(t, 1<<20)
	microvm := newDriver(t, Config{Machine: MachineMicroVM, Accel: AccelTCG})
	if _, err := microvm.StartTemplate(t.Context(), spec, memory); !errdefs.IsNotImplemented(err) {
		t.Errorf("a template of a microvm: %v", err)
	}
	if _, err := d.StartTemplate(t.Context(), spec, small); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a template with another memory: %v", err)
	}
	with := spec
	with.Share = &virtcontainers.Share{Tag: "t", Socket: memory}
	if _, err := d.StartTemplate(t.Context(), with, memory); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a template with a share: %v", err)
	}
	if _, err := d.StartClone(t.Context(), with, virtcontainers.Saved{Memory: memory, State: small}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a share on memory that is not private: %v", err)
	}
	descriptors := descriptorCount(t)
	_, err := d.StartClone(t.Context(), spec, virtcontainers.Saved{Memory: memory, State: small})
	checkError(t, err, errdefs.ErrUnavailable, "test")
	filling := errors.New("cannot fill")
	_, err = d.StartClone(t.Context(), spec, virtcontainers.Saved{
		Memory: memory, State: small, Private: true, Fill: func() error { return filling },
	})
	checkError(t, err, filling)
	if now := descriptorCount(t); now > descriptors {
		t.Errorf("%d descriptors before, %d after", descriptors, now)
	}
}

func TestFingerprint(t *testing.T) {
	d := newDriver(t, Config{Accel: AccelTCG})
	spec := goodSpec(t)
	fingerprint := func(spec virtcontainers.VMSpec) string {
		t.Helper()
		f, err := d.Fingerprint(spec)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	before := fingerprint(spec)
	same := spec
	same.ID, same.Dir, same.NetNS = "other", "/other", "/other"
	if fingerprint(same) != before {
		t.Error("what is a clone's own counts")
	}
	for name, change := range map[string]func(*virtcontainers.VMSpec){
		"memory":           func(s *virtcontainers.VMSpec) { s.MemoryMiB++ },
		"more memory":      func(s *virtcontainers.VMSpec) { s.MaxMemoryMiB = 1024 },
		"processors":       func(s *virtcontainers.VMSpec) { s.VCPUs++ },
		"kernel arguments": func(s *virtcontainers.VMSpec) { s.KernelArgs = []string{"x"} },
		"share":            func(s *virtcontainers.VMSpec) { s.Shared = true },
		"kernel":           func(s *virtcontainers.VMSpec) { s.Kernel = writeFile(t, "vmlinux", haltingKernel(), 0o644) },
		"image": func(s *virtcontainers.VMSpec) {
			if err := os.WriteFile(s.Image, []byte("070702"), 0o644); err != nil {
				t.Fatal(err)
			}
		},
	} {
		other := spec
		change(&other)
		if fingerprint(other) == before {
			t.Errorf("another %s makes no difference", name)
		}
		before = fingerprint(spec)
	}
	spec.Kernel += "-missing"
	if _, err := d.Fingerprint(spec); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a kernel: %v", err)
	}
}

func TestHostProcessor(t *testing.T) {
	const first = "processor\t: 0\nmodel name\t: CPU\ncpu MHz\t\t: 1.0\nflags\t\t: a b\n"
	got := hostProcessor(first + "\nprocessor\t: 1\nmodel name\t: other\n")
	if want := "model name\t: CPU\nflags\t\t: a b\n"; got != want {
		t.Errorf("got %q", got)
	}
}
