package qemu

import (
	"bytes"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/virtcontainers"
)

// TestPlaces puts disks into places that the guest knew before it was saved.
func TestPlaces(t *testing.T) {
	d := newDriver(t, Config{})
	kernels(t, func(t *testing.T, spec virtcontainers.VMSpec) {
		spec.Places = []virtcontainers.DiskPlace{
			{ID: "read", Bytes: 64 << 10, ReadOnly: true},
			{ID: "twentyLettersAtMost1", Bytes: 64 << 10},
		}
		saved := save(t, d, spec)
		for _, text := range []string{"of the first", "of the other"} {
			g := clone(t, d, spec, again(t, saved))
			file := diskFile(t, text, os.O_RDWR)
			attachDisk(t, g.vm, virtcontainers.Disk{ID: "read", File: diskFile(t, "only read "+text, os.O_RDONLY), ReadOnly: true})
			attachDisk(t, g.vm, virtcontainers.Disk{ID: "twentyLettersAtMost1", File: file})
			name, rest, _ := strings.Cut(g.ask(t, "disk", "twentyLettersAtMost1"), " ")
			if got := g.ask(t, "cat", "/dev/"+name); got != text || rest != "128 0" {
				t.Errorf("the guest reads %q on a disk of %s", got, rest)
			}
			g.ask(t, "write", "/dev/"+name, "by-the-guest!")
			if got, err := os.ReadFile(file.Name()); err != nil || !bytes.HasPrefix(got, []byte("by-the-guest!")) || len(got) != 64<<10 {
				t.Errorf("the host reads %.20q of %d bytes, %v", got, len(got), err)
			}
			name, rest, _ = strings.Cut(g.ask(t, "disk", "read"), " ")
			if got := g.ask(t, "cat", "/dev/"+name); got != "only read "+text || !strings.HasSuffix(rest, " 1") {
				t.Errorf("the guest reads %q on a disk of %s", got, rest)
			}
			checkError(t, g.vm.AttachDisk(t.Context(), virtcontainers.Disk{ID: "twentyLettersAtMost1", File: file}), errdefs.ErrAlreadyExists)
			detachDisk(t, g.vm, "twentyLettersAtMost1")
			detachDisk(t, g.vm, "read")
			checkError(t, g.vm.DetachDisk(t.Context(), "read"), errdefs.ErrNotFound, `"read"`)
			if held := heldDisks(t, g.vm); held != "" {
				t.Errorf("QEMU still holds %s", held)
			}
			// Now it is an id like any other.
			attachDisk(t, g.vm, virtcontainers.Disk{ID: "twentyLettersAtMost1", File: file})
			name, _, _ = strings.Cut(g.ask(t, "disk", "twentyLettersAtMost1"), " ")
			if got := g.ask(t, "cat", "/dev/"+name); got != "by-the-guest!" {
				t.Errorf("the guest reads %q on a disk that was plugged in", got)
			}
		}
	})
}

func TestPlaceErrors(t *testing.T) {
	d := newDriver(t, Config{Accel: AccelTCG})
	spec := goodSpec(t)
	spec.Places = []virtcontainers.DiskPlace{{ID: "read", Bytes: 64 << 10, ReadOnly: true}, {ID: "both", Bytes: 1 << 20}}
	for name, change := range map[string]func([]virtcontainers.DiskPlace){
		"no id":     func(p []virtcontainers.DiskPlace) { p[1].ID = "" },
		"twice":     func(p []virtcontainers.DiskPlace) { p[1].ID = p[0].ID },
		"no size":   func(p []virtcontainers.DiskPlace) { p[1].Bytes = 0 },
		"a part":    func(p []virtcontainers.DiskPlace) { p[1].Bytes = 513 },
		"too large": func(p []virtcontainers.DiskPlace) { p[1].Bytes = math.MaxUint64 &^ 511 },
	} {
		t.Run(name, func(t *testing.T) {
			wrong := spec
			wrong.Places = append([]virtcontainers.DiskPlace(nil), spec.Places...)
			change(wrong.Places)
			_, err := d.StartTemplate(t.Context(), wrong, memfd(t, int64(spec.MemoryMiB<<20)))
			checkError(t, err, errdefs.ErrInvalidArgument)
		})
	}
	kernels(t, func(t *testing.T, guest virtcontainers.VMSpec) {
		guest.Places = spec.Places
		vm := clone(t, d, guest, save(t, d, guest)).vm
		small, read := diskFile(t, "", os.O_RDWR), diskFile(t, "", os.O_RDONLY)
		for name, disk := range map[string]virtcontainers.Disk{
			"smaller than the guest knows": {ID: "both", File: small},
			"read-only":                    {ID: "both", File: read, ReadOnly: true},
			"not read-only":                {ID: "read", File: small},
		} {
			t.Run(name, func(t *testing.T) {
				checkError(t, vm.AttachDisk(t.Context(), disk), errdefs.ErrInvalidArgument, disk.ID)
			})
		}
		checkError(t, vm.DetachDisk(t.Context(), "read"), errdefs.ErrNotFound, `"read"`)
		attachDisk(t, vm, virtcontainers.Disk{ID: "read", File: read, ReadOnly: true})
	})
}

// TestPlaceArguments: what a guest sees is the same in a template and its clones.
func TestPlaceArguments(t *testing.T) {
	spec := virtcontainers.VMSpec{ID: "pod", VCPUs: 1, MemoryMiB: 256, Places: []virtcontainers.DiskPlace{
		{ID: "image1", Bytes: 1 << 46, ReadOnly: true}, {ID: "scratch1", Bytes: 1 << 30},
	}}
	const want = "-blockdev null-co,node-name=e-disk-image1-1,size=70368744177664,read-zeroes=on,read-only=on " +
		"-blockdev raw,node-name=disk-image1-1,file=e-disk-image1-1,discard=unmap,read-only=on " +
		"-device virtio-blk-pci,id=disk-image1-1,drive=disk-image1-1,serial=image1,bus=hot,addr=0x1,disable-legacy=on,rerror=report,werror=report " +
		"-blockdev null-co,node-name=e-disk-scratch1-2,size=1073741824,read-zeroes=on,read-only=off " +
		"-blockdev raw,node-name=disk-scratch1-2,file=e-disk-scratch1-2,discard=unmap,read-only=off " +
		"-device virtio-blk-pci,id=disk-scratch1-2,drive=disk-scratch1-2,serial=scratch1,bus=hot,addr=0x2,disable-legacy=on,rerror=report,werror=report"
	for role, has := range map[role]bool{boots: false, saves: true, resumes: true} {
		got := joined(arguments(spec, platform{machine: MachineQ35, role: role}, testDescriptors()))
		if strings.Contains(got, want) != has {
			t.Errorf("role %d:\n%s\nwith places: %v\n%s", role, got, has, want)
		}
	}
}
