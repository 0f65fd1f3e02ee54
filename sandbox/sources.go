package sandbox

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// guestVolumes is where the guest has what the agent makes for containers.
const guestVolumes = "/run/hyper/volumes"

// sources is what a container's binds name on the host.
type sources struct {
	kinds        map[string]virtcontainers.SourceKind
	blockDevices map[string]virtcontainers.BlockDevice
	memory       map[string]virtcontainers.MemoryVolume
}

// inspectSources looks at what a container binds, once each, as a bind mount would
// find it: symbolic links are followed. What is not there is found missing when it
// is bound.
func inspectSources(paths []string) sources {
	found := sources{
		make(map[string]virtcontainers.SourceKind),
		make(map[string]virtcontainers.BlockDevice),
		make(map[string]virtcontainers.MemoryVolume),
	}
	for _, path := range paths {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			continue
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			found.kinds[path] = virtcontainers.SourceDirectory
			if m, ok := findMemoryVolume(path, &st); ok {
				found.memory[path] = m
			}
		case unix.S_IFSOCK:
			found.kinds[path] = virtcontainers.SourceSocket
		case unix.S_IFBLK:
			found.blockDevices[path] = virtcontainers.BlockDevice{
				DeviceNumber: numberOf(&st),
				Mode:         os.FileMode(st.Mode) & os.ModePerm,
				UID:          st.Uid,
				GID:          st.Gid,
			}
		}
	}
	return found
}
