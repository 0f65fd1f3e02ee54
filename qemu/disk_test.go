package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/qmp"
	"github.com/hyperhq/hyper/virtcontainers"
)

// diskFile makes a file of 64 KiB that begins with a text.
func diskFile(t *testing.T, text string, flags int) *os.File {
	t.Helper()
	path := writeFile(t, "disk", append([]byte(text), bytes.Repeat([]byte("\n"), 64<<10-len(text))...), 0o600)
	return openDisk(t, path, flags)
}

func openDisk(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestDisk(t *testing.T) {
	kernels(t, func(t *testing.T, spec virtcontainers.VMSpec) {
		vm := start(t, newDriver(t, Config{Machine: MachineQ35}), spec)
		g := connect(t, vm)
		g.ask(t, "ping")
		for range 2 {
			file := diskFile(t, "for the guest", os.O_RDWR)
			attachDisk(t, vm, virtcontainers.Disk{ID: "both", File: file})
			attachDisk(t, vm, virtcontainers.Disk{ID: "read", File: diskFile(t, "only read", os.O_RDONLY), ReadOnly: true})
			file.Close() // QEMU has its own
			name, rest, _ := strings.Cut(g.ask(t, "disk", "both"), " ")
			if got := g.ask(t, "cat", "/dev/"+name); got != "for the guest" || rest != "128 0" {
				t.Errorf("the guest reads %q on a disk of %s", got, rest)
			}
			g.ask(t, "write", "/dev/"+name, "by-the-guest!")
			if got, err := os.ReadFile(file.Name()); err != nil || !bytes.HasPrefix(got, []byte("by-the-guest!")) || len(got) != 64<<10 {
				t.Errorf("the host reads %.20q of %d bytes, %v", got, len(got), err)
			}
			name, rest, _ = strings.Cut(g.ask(t, "disk", "read"), " ")
			if got := g.ask(t, "cat", "/dev/"+name); got != "only read" || rest != "128 1" {
				t.Errorf("the guest reads %q on a disk of %s", got, rest)
			}
			if _, err := g.try("write", "/dev/"+name, "no"); err == nil {
				t.Error("the guest writes to a disk that is read-only")
			}
			for _, id := range []string{"both", "read"} {
				detachDisk(t, vm, id)
				g.ask(t, "nodisk", id)
			}
		}
		if held := heldDisks(t, vm); held != "" {
			t.Errorf("QEMU still holds %s", held)
		}
	})
}

// TestDiskErrors needs no guest, as TestNICErrors.
func TestDiskErrors(t *testing.T) {
	vm := start(t, newDriver(t, Config{Machine: MachineQ35, Accel: AccelTCG}), goodSpec(t))
	file := diskFile(t, "", os.O_RDWR)
	good := virtcontainers.Disk{ID: "a", File: file}
	for name, change := range map[string]func(*virtcontainers.Disk){
		"no id":       func(d *virtcontainers.Disk) { d.ID = "" },
		"long id":     func(d *virtcontainers.Disk) { d.ID = strings.Repeat("x", 21) },
		"no file":     func(d *virtcontainers.Disk) { d.File = nil },
		"to write":    func(d *virtcontainers.Disk) { d.File = openDisk(t, file.Name(), os.O_RDONLY) },
		"to read":     func(d *virtcontainers.Disk) { d.ReadOnly = true },
		"a directory": func(d *virtcontainers.Disk) { d.File, d.ReadOnly = openDisk(t, os.TempDir(), os.O_RDONLY), true },
		"no disk":     func(d *virtcontainers.Disk) { d.File = openDisk(t, os.DevNull, os.O_RDWR) },
		"half a sector": func(d *virtcontainers.Disk) {
			d.File = openDisk(t, writeFile(t, "half", make([]byte, 256), 0o600), os.O_RDWR)
		},
	} {
		t.Run(name, func(t *testing.T) {
			disk := good
			change(&disk)
			checkError(t, vm.AttachDisk(t.Context(), disk), errdefs.ErrInvalidArgument, "VM")
		})
	}
	t.Run("QEMU refuses", func(t *testing.T) {
		other := map[string]string{"driver": "pci-testdev", "id": "other", "bus": hotplugBus, "addr": "0x1"}
		if err := vm.(*machine).monitor.AddDevice(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		checkRefused(t, vm.AttachDisk(t.Context(), good), "device_add")
		vm.(*machine).plugs.slots.used |= 1 << 1 // out of the way
		if held := heldDisks(t, vm); held != "" {
			t.Errorf("QEMU still holds %s", held)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		checkError(t, vm.DetachDisk(t.Context(), "b"), errdefs.ErrNotFound, `"b"`)
	})
	attachDisk(t, vm, good)
	t.Run("never let go", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		checkError(t, vm.DetachDisk(ctx, good.ID), context.DeadlineExceeded, "does not let go")
		checkError(t, vm.AttachDisk(t.Context(), good), errdefs.ErrAlreadyExists)
	})
	var refused *qmp.Error
	if err := vm.(*machine).monitor.DelBlock(t.Context(), "disk-a-2"); err == nil || !errors.As(err, &refused) {
		t.Errorf("DelBlock() of a disk in use = %v", err)
	}
}

// TestBlockDevice has a guest read a loop device.
func TestBlockDevice(t *testing.T) {
	kernels(t, func(t *testing.T, spec virtcontainers.VMSpec) {
		device := loopDevice(t, diskFile(t, "on a device", os.O_RDONLY))
		vm := start(t, newDriver(t, Config{Machine: MachineQ35}), spec)
		g := connect(t, vm)
		g.ask(t, "ping")
		attachDisk(t, vm, virtcontainers.Disk{ID: "loop", File: device, ReadOnly: true})
		name, rest, _ := strings.Cut(g.ask(t, "disk", "loop"), " ")
		if got := g.ask(t, "cat", "/dev/"+name); got != "on a device" || rest != "128 1" {
			t.Errorf("the guest reads %q on a disk of %s", got, rest)
		}
		detachDisk(t, vm, "loop")
	})
}

// loopDevice makes a device of a file. The kernel ends it with its last user.
func loopDevice(t *testing.T, file *os.File) *os.File {
	t.Helper()
	control, err := os.Open("/dev/loop-control")
	if err != nil {
		t.Skipf("no loop devices here: %v", err)
	}
	defer control.Close()
	for range 10 { // another may take what was found free
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Skipf("no loop device is free: %v", err)
		}
		device := openDisk(t, fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY)
		config := unix.LoopConfig{Fd: uint32(file.Fd())}
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_READ_ONLY
		switch err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err {
		case nil:
			return device
		case unix.EBUSY:
		default:
			t.Fatal(err)
		}
	}
	t.Skip("others take every loop device")
	return nil
}

func attachDisk(t *testing.T, vm virtcontainers.VM, disk virtcontainers.Disk) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	if err := vm.AttachDisk(ctx, disk); err != nil {
		t.Fatal(err)
	}
}

func detachDisk(t *testing.T, vm virtcontainers.VM, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	if err := vm.DetachDisk(ctx, id); err != nil {
		t.Fatalf("%v\n%s", err, vm.Log())
	}
}

// heldDisks names the disks of the tests that QEMU has open.
func heldDisks(t *testing.T, vm virtcontainers.VM) string {
	t.Helper()
	var held []string
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", vm.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && filepath.Base(target) == "disk" {
			held = append(held, target)
		}
	}
	return strings.Join(held, " ")
}
