package factory

import (
	"fmt"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/virtcontainers"
)

// imagePlace is how large an image of layers can be for the place that clones have for
// it, in bytes. It is more than any disk of a host holds.
const imagePlace = 1 << 46

// ImageDisk and ScratchDisk are the ids of the disks of a machine's n-th root file
// system, from 1 on. Clones without a share have places for those of the first.
func ImageDisk(n uint64) string   { return fmt.Sprintf("image%d", n) }
func ScratchDisk(n uint64) string { return fmt.Sprintf("scratch%d", n) }

// places are those for disks that the clones of a kind have. Containers of machines
// with a share have their root file systems there as a rule.
func (f *Cold) places(shared bool) []virtcontainers.DiskPlace {
	rootfs := f.config.Rootfs
	if shared || rootfs.By == config.RootfsShare {
		return nil
	}
	return []virtcontainers.DiskPlace{
		{ID: ImageDisk(1), Bytes: imagePlace, ReadOnly: true},
		{ID: ScratchDisk(1), Bytes: rootfs.ScratchMiB << 20},
	}
}
