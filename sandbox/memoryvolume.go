package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/virtcontainers"
)

// findMemoryVolume says whether a directory is an emptyDir of medium Memory, or a part
// of one: kubelet mounts a tmpfs for it. The guest has such a volume in its own memory,
// where its files count as memory of the container that writes them: on the host they
// would count against the pod's limit beside all of the guest's memory, and who goes
// beyond that is killed with the machine.
func findMemoryVolume(source string, st *unix.Stat_t) (virtcontainers.MemoryVolume, bool) {
	none := virtcontainers.MemoryVolume{}
	volume := virtcontainers.EmptyDirOf(source)
	if volume == "" {
		return none, false
	}
	var fs unix.Statfs_t
	var root, parent unix.Stat_t
	if unix.Statfs(volume, &fs) != nil || fs.Type != unix.TMPFS_MAGIC ||
		unix.Lstat(volume, &root) != nil || unix.Lstat(filepath.Dir(volume), &parent) != nil {
		return none, false
	}
	if root.Dev == parent.Dev || root.Dev != st.Dev {
		return none, false // it is a directory of another file system
	}
	found := virtcontainers.MemoryVolume{
		Name: volume,
		Size: fs.Blocks * uint64(fs.Bsize),
		Root: attributesOf(&root), Directory: attributesOf(st),
	}
	if filepath.Clean(source) == volume {
		return found, true
	}
	// A part is bound: the mount tells of what.
	info, err := mount.Lookup(source)
	if err != nil || info.Mountpoint != filepath.Clean(source) {
		return none, false
	}
	found.Part = strings.TrimPrefix(info.Root, "/")
	return found, found.Part != ""
}

func attributesOf(st *unix.Stat_t) virtcontainers.Attributes {
	return virtcontainers.Attributes{Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}
}

// memoryMessages tell the agent of a container's volumes in memory, by ids that name
// nothing of the host.
func memoryMessages(list []virtcontainers.PlannedMemory) []*agentv1.MemoryVolume {
	var messages []*agentv1.MemoryVolume
	for _, m := range list {
		id := sha256.Sum256([]byte(m.Name))
		messages = append(messages, &agentv1.MemoryVolume{
			Id:     hex.EncodeToString(id[:16]),
			Target: m.Target,
			Path:   m.Part,
			Size:   m.Size,
			Root:   attributesMessage(m.Root),
			Part:   attributesMessage(m.Directory),
		})
	}
	return messages
}

func attributesMessage(a virtcontainers.Attributes) *agentv1.Attributes {
	return &agentv1.Attributes{Mode: a.Mode, Uid: a.UID, Gid: a.GID}
}
