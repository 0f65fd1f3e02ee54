package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/hyperhq/hyper/qemu/process"
	"github.com/hyperhq/hyper/virtcontainers"
)

func writeFile(t *testing.T, name string, data []byte, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func checkError(t *testing.T, err, kind error, says ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("error %v, want %v", err, kind)
	}
	for _, s := range says {
		if !strings.Contains(fmt.Sprint(err), s) {
			t.Errorf("error %v lacks %q", err, s)
		}
	}
}

func TestNewErrors(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	plain := writeFile(t, "plain", nil, 0o644)
	for name, tc := range map[string]struct {
		cfg  Config
		kind error
		says string
	}{
		"machine":           {Config{Machine: "pc"}, errdefs.ErrInvalidArgument, `"q35" or "microvm"`},
		"accel":             {Config{Accel: "xen"}, errdefs.ErrInvalidArgument, `"auto", "kvm" or "tcg"`},
		"no binary":         {Config{Path: missing}, errdefs.ErrNotFound, missing},
		"not executable":    {Config{Path: plain}, errdefs.ErrFailedPrecondition, plain},
		"directory":         {Config{Path: dir}, errdefs.ErrFailedPrecondition, dir},
		"no firmware there": {Config{Path: "/bin/true", Firmware: missing}, errdefs.ErrNotFound, missing},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(tc.cfg, log.L)
			checkError(t, err, tc.kind, tc.says)
		})
	}
	t.Run("nothing on PATH", func(t *testing.T) {
		t.Setenv("PATH", dir)
		_, err := New(Config{}, log.L)
		checkError(t, err, errdefs.ErrNotFound, "qemu-system-x86_64", "install")
	})
}

// goodSpec is one that passes all checks; its guest does nothing.
func goodSpec(t *testing.T) virtcontainers.VMSpec {
	t.Helper()
	return virtcontainers.VMSpec{
		ID: "test", VCPUs: 1, MemoryMiB: 64,
		Kernel: writeFile(t, "vmlinux", haltingKernel(), 0o644),
		Image:  writeFile(t, "initrd.img", []byte("070701"), 0o644),
	}
}

func TestStartErrors(t *testing.T) {
	d := newDriver(t, Config{})
	missing := filepath.Join(t.TempDir(), "missing")
	for _, tc := range []struct {
		name   string
		change func(*virtcontainers.VMSpec)
		kind   error
		says   string
	}{
		{"no id", func(s *virtcontainers.VMSpec) { s.ID = "" }, errdefs.ErrInvalidArgument, "id"},
		{"odd id", func(s *virtcontainers.VMSpec) { s.ID = "a b" }, errdefs.ErrInvalidArgument, "id"},
		{"no CPU", func(s *virtcontainers.VMSpec) { s.VCPUs = 0 }, errdefs.ErrInvalidArgument, "1 to 255"},
		{"little memory", func(s *virtcontainers.VMSpec) { s.MemoryMiB = 63 }, errdefs.ErrInvalidArgument, "at least 64"},
		{"much memory", func(s *virtcontainers.VMSpec) { s.MemoryMiB = 1 << 40 }, errdefs.ErrResourceExhausted, "the host's"},
		{"kernel argument", func(s *virtcontainers.VMSpec) { s.KernelArgs = []string{"a b"} }, errdefs.ErrInvalidArgument, `"a b"`},
		{"kernel arguments", func(s *virtcontainers.VMSpec) { s.KernelArgs = []string{strings.Repeat("x", 2000)} }, errdefs.ErrInvalidArgument, "1536"},
		{"share tag", func(s *virtcontainers.VMSpec) { s.Share = &virtcontainers.Share{} }, errdefs.ErrInvalidArgument, "tag"},
		{"share socket", func(s *virtcontainers.VMSpec) { s.Share = &virtcontainers.Share{Tag: "t"} }, errdefs.ErrInvalidArgument, "socket"},
		{"no kernel", func(s *virtcontainers.VMSpec) { s.Kernel = missing }, errdefs.ErrNotFound, missing},
		{"kernel is a directory", func(s *virtcontainers.VMSpec) { s.Kernel = os.TempDir() }, errdefs.ErrInvalidArgument, os.TempDir()},
		{"kernel is text", func(s *virtcontainers.VMSpec) { s.Kernel = writeFile(t, "k", []byte("text"), 0o644) }, errdefs.ErrInvalidArgument, "vmlinux"},
		{"no image", func(s *virtcontainers.VMSpec) { s.Image = missing }, errdefs.ErrNotFound, missing},
		{"empty image", func(s *virtcontainers.VMSpec) { s.Image = writeFile(t, "i", nil, 0o644) }, errdefs.ErrInvalidArgument, "empty"},
		{"image is text", func(s *virtcontainers.VMSpec) { s.Image = writeFile(t, "i", []byte("something"), 0o644) }, errdefs.ErrInvalidArgument, "initial RAM"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := goodSpec(t)
			tc.change(&spec)
			begin := time.Now()
			_, err := d.Start(t.Context(), spec)
			checkError(t, err, tc.kind, tc.says)
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
	t.Run("emulated microvm", func(t *testing.T) {
		d := newDriver(t, Config{Machine: MachineMicroVM, Accel: AccelTCG})
		spec := goodSpec(t)
		_, err := d.Start(t.Context(), spec)
		checkError(t, err, errdefs.ErrFailedPrecondition, "q35")
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := d.Start(ctx, goodSpec(t))
		checkError(t, err, context.Canceled, "test")
	})
}

// TestStartsAndStops needs no guest: QEMU runs a kernel that halts.
func TestStartsAndStops(t *testing.T) {
	d := newDriver(t, Config{Accel: AccelTCG})
	before := descriptorCount(t)
	for range 5 {
		vm, err := d.Start(t.Context(), goodSpec(t))
		if err != nil {
			t.Fatal(err)
		}
		checkMonitor(t, vm.(*machine))
		select {
		case <-vm.Done():
			t.Fatal(vm.Err())
		default:
		}
		if err := vm.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if after := descriptorCount(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptorCount(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// fakeQEMU is a driver with a shell script in QEMU's place. It has the descriptors
// that QEMU would have: the monitor is 6, the console 7.
func fakeQEMU(t *testing.T, script string) *Driver {
	t.Helper()
	newDriver(t, Config{}) // skips where it must
	// A directory that is open to QEMU's user, unlike those of the tests.
	dir, err := os.MkdirTemp("/tmp", "hyper-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{Path: path}, log.L)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestQEMUDiesAtOnce(t *testing.T) {
	d := fakeQEMU(t, "echo could not load >&2; echo on the console >&7; exit 3")
	begin := time.Now()
	vm := start(t, d, goodSpec(t))
	<-vm.Done()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	checkError(t, vm.Err(), errdefs.ErrUnavailable, "exit status 3", "could not load", "on the console")
	if err := vm.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	if vm.Err() == nil {
		t.Error("a Kill afterwards made an asked-for end of it")
	}
}

// TestStoppedForGood has a QEMU that meets an error within KVM, which a real one
// cannot be made to do here. It would keep the dead machine for ever.
func TestStoppedForGood(t *testing.T) {
	const conversation = `
say() { echo "$1" >&6; }
say '{"QMP": {}}'
read -r line <&6; say '{"return": {}, "id": 1}'
say '{"event": "STOP"}'
read -r line <&6; say '{"return": {"running": false, "status": "%s"}, "id": 2}'
read -r line <&6
`
	broken := start(t, fakeQEMU(t, fmt.Sprintf(conversation, "internal-error")), goodSpec(t))
	select {
	case <-broken.Done():
		checkError(t, broken.Err(), errdefs.ErrUnavailable, "internal-error")
	case <-time.After(10 * time.Second):
		t.Error("the broken machine lives on")
	}
	paused := start(t, fakeQEMU(t, fmt.Sprintf(conversation, "paused")), goodSpec(t))
	select {
	case <-paused.Done():
		t.Errorf("a paused machine was ended: %v", paused.Err())
	case <-time.After(200 * time.Millisecond):
	}
}

// FuzzShutdownEvent: a guest makes QEMU say that it shuts down.
func FuzzShutdownEvent(f *testing.F) {
	f.Add([]byte(`{"guest": true, "reason": "guest-reset"}`))
	f.Add([]byte(`{"reason": "\u001b[2J"}`))
	f.Add([]byte(`{"reason": 7}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got := shutdownEvent(data)
		if len(got) > 128 || got != process.Printable(got) {
			t.Errorf("%q gives %q", data, got)
		}
	})
}

func TestHostMemory(t *testing.T) {
	spec := virtcontainers.VMSpec{ID: "test", MemoryMiB: 1000}
	for meminfo, ok := range map[string]bool{
		"MemTotal:        1024000 kB\nMemFree: 1 kB\n": true,
		"MemTotal:        1023999 kB\n":                false,
		"MemFree: 1 kB\n":                              true,
	} {
		if err := checkHostMemory(spec, strings.NewReader(meminfo)); (err == nil) != ok {
			t.Errorf("%q: %v", meminfo, err)
		}
	}
}

func TestTSC(t *testing.T) {
	s := sampleTSC()
	if got := s.tscKHz(); got != 0 {
		if _, err := os.Stat("/sys/devices/system/cpu/cpu0/tsc_freq_khz"); err != nil {
			t.Errorf("%d kHz measured within no time", got)
		}
	}
	<-time.After(20 * time.Millisecond) // the measured interval
	got := s.tscKHz()
	if got < 500_000 || got > 10_000_000 {
		t.Fatalf("%d kHz is no processor's", got)
	}
	if again := s.tscKHz(); again < got-got/500 || again > got+got/500 {
		t.Errorf("%d kHz, then %d kHz", got, again)
	}
}

// TestTSCOfABusyHost has the processor taken away between the readings of the two
// clocks: what such samples tell would be off by any factor.
func TestTSCOfABusyHost(t *testing.T) {
	begin := time.Now()
	const khz, width = 2_600_000, 500
	at := func(counts uint64, after time.Duration, width uint64) tscSample {
		return tscSample{counter: counts, width: width, at: begin.Add(after)}
	}
	first := at(1000, 0, width)
	for _, tc := range []struct {
		name string
		from tscSample
		to   tscSample
		want uint64
	}{
		{"steady", first, at(1000+100*khz, 100*time.Millisecond, width), khz},
		{"too soon", first, at(1000+khz/2, 500*time.Microsecond, width), 0},
		{"backwards", first, at(0, 100*time.Millisecond, width), 0},
		{"late second", first, at(1000+100*khz, 200*time.Millisecond, 100*khz), 0},
		{"late first", at(1000, 0, 100*khz), at(1000+100*khz, 10*time.Millisecond, width), 0},
	} {
		if got := tc.from.until(tc.to); got != tc.want {
			t.Errorf("%s: %d kHz, want %d", tc.name, got, tc.want)
		}
	}
	if s := sampleTSC(); s.width == 0 {
		t.Error("a sample that took no time")
	}
}
