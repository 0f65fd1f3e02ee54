package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/virtcontainers"
)

// TestMemory lets a guest whose files are shared grow, use what it got, also for
// what it shares, and give it back.
func TestMemory(t *testing.T) {
	kernels(t, func(t *testing.T, spec virtcontainers.VMSpec) {
		dir, daemon := share(t)
		spec.MaxMemoryMiB = 1024
		spec.Share = &virtcontainers.Share{Tag: "share", Socket: daemon.Socket}
		vm := start(t, newDriver(t, Config{Machine: MachineQ35}), spec)
		daemon.Socket.Close()
		g := connect(t, vm)
		g.ask(t, "mount", "virtiofs", "share", "/share")
		g.ask(t, "mount", "ramfs", "none", "/fill")
		began := guestMemory(t, g)

		begin := time.Now()
		resize(t, vm, 901, 904)
		t.Logf("the guest had it after %v", time.Since(begin))
		waitUntil(t, "the guest uses what it got", func() (bool, string) {
			now := guestMemory(t, g)
			return now >= began+600, fmt.Sprintf("%d MiB, %d at first", now, began)
		})

		// More than there was at first: what follows is in what was added.
		g.ask(t, "fill", "/fill/a", "400")
		g.ask(t, "fill", "/share/a", "64")
		checkFilled(t, filepath.Join(dir, "a"), 64)
		full := resident(t, vm.PID())
		if full < 400 {
			t.Errorf("QEMU has %d MiB when the guest has filled 400", full)
		}

		begin = time.Now()
		g.ask(t, "remove", "/fill/a")
		waitUntil(t, "what the guest frees goes back to the host", func() (bool, string) {
			now := resident(t, vm.PID())
			return now <= full-350, fmt.Sprintf("QEMU has %d MiB, %d before", now, full)
		})
		t.Logf("the host had it back after %v", time.Since(begin))

		resize(t, vm, 0, 0)
		waitUntil(t, "the guest shrinks", func() (bool, string) {
			size, err := vm.(*machine).monitor.MemoryTaken(t.Context(), growthDevice)
			if err != nil {
				t.Fatal(err)
			}
			return size < 64<<20, fmt.Sprintf("it has %d MiB more than at first", size>>20)
		})
		resize(t, vm, 512, 512)
		g.ask(t, "fill", "/fill/b", "300")
	})
}

func TestMemoryErrors(t *testing.T) {
	spec := goodSpec(t)
	spec.MaxMemoryMiB = spec.MemoryMiB + 100
	vm := start(t, newDriver(t, Config{Machine: MachineQ35, Accel: AccelTCG}), spec)
	_, err := vm.ResizeMemory(t.Context(), spec.MaxMemoryMiB+1)
	checkError(t, err, errdefs.ErrResourceExhausted, fmt.Sprint(spec.MaxMemoryMiB))
	if got, err := vm.ResizeMemory(t.Context(), 1); err != nil || got != spec.MemoryMiB {
		t.Errorf("a size below the first = %d, %v", got, err)
	}
	// The guest halts and takes nothing.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	got, err := vm.ResizeMemory(ctx, spec.MaxMemoryMiB)
	checkError(t, err, context.DeadlineExceeded, "takes no more")
	if got != spec.MemoryMiB {
		t.Errorf("the guest is said to have %d MiB", got)
	}
	resized := make(chan error)
	go func() {
		_, err := vm.ResizeMemory(t.Context(), spec.MaxMemoryMiB)
		resized <- err
	}()
	if err := vm.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	checkError(t, <-resized, errdefs.ErrUnavailable)
}

func TestMemoryThatKeeps(t *testing.T) {
	m := &machine{id: "test", memory: memory{baseMiB: 256}}
	if got, err := m.resizeMemory(t.Context(), 256); err != nil || got != 256 {
		t.Errorf("its own size = %d, %v", got, err)
	}
	_, err := m.resizeMemory(t.Context(), 257)
	checkError(t, err, errdefs.ErrNotImplemented, "256")
}

// TestExtra rounds to what devices and kernels add.
func TestExtra(t *testing.T) {
	y := memory{baseMiB: 256, growthMiB: 100}
	for mib, want := range map[uint64]uint64{0: 0, 256: 0, 257: 4, 260: 4, 261: 8, 356: 100} {
		if got, err := y.extra(mib); got != want || err != nil {
			t.Errorf("extra(%d) = %d, %v, want %d", mib, got, err, want)
		}
	}
}

// resize asks for a size and checks what is reached, unless that is not told.
func resize(t *testing.T, vm virtcontainers.VM, mib, want uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	got, err := vm.ResizeMemory(ctx, mib)
	if err != nil || want != 0 && got != want {
		t.Fatalf("ResizeMemory(%d) = %d, %v, want %d", mib, got, err, want)
	}
}

// guestMemory is what the guest's kernel has, in MiB.
func guestMemory(t *testing.T, g *guest) uint64 {
	t.Helper()
	return kibField(t, g.ask(t, "memory"), "MemTotal:")
}

// resident is what a process has in memory, in MiB.
func resident(t *testing.T, pid int) uint64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	return kibField(t, string(b), "Rss:")
}

func kibField(t *testing.T, text, name string) uint64 {
	t.Helper()
	_, rest, _ := strings.Cut(text, name)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		t.Fatalf("no %s in %q", name, text)
	}
	n, err := strconv.ParseUint(fields[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n >> 10
}

// waitUntil looks again and again at what the guest does in its own time.
func waitUntil(t *testing.T, what string, reached func() (ok bool, got string)) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		ok, got := reached()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not in time: %s", what, got)
		}
	}
}

// checkFilled reads a file that the guest has filled.
func checkFilled(t *testing.T, path string, mib int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || len(b) != mib<<20 {
		t.Fatalf("%s has %d bytes, %v", path, len(b), err)
	}
	block := bytes.Repeat([]byte("hyper..."), 1<<17)
	for i := range mib {
		binary.LittleEndian.PutUint64(block, uint64(i))
		if !bytes.Equal(b[i<<20:(i+1)<<20], block) {
			t.Errorf("MiB %d of %s is not what the guest wrote", i, path)
		}
	}
}
