package pool

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"syscall"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox"
)

// Identity is all that must be equal for a machine that waits to be of use to a pod.
type Identity struct {
	// Namespace and Address are those of containerd: no machine passes from one
	// namespace's settings, or one containerd, to another's.
	Namespace, Address string
	// Config is the whole configuration.
	Config *config.Config
	// Wants is what the machine is.
	Wants sandbox.Wants
	// Place is where its processes run: see PlaceOf.
	Place string
}

// Key names what is equal. It looks at the program of the calling process as well.
func (i Identity) Key() (string, error) {
	program, err := programOf()
	if err != nil {
		return "", err
	}
	data, err := json.Marshal(struct {
		Identity
		Program, Path string
	}{i, program, os.Getenv("PATH")})
	if err != nil {
		return "", fmt.Errorf("make the pool's key: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:12]), nil
}

// programOf tells the program that now has this one's path from one that had it before.
func programOf() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the shim's binary: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("look at the shim's binary: %w", err)
	}
	text := fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		text += fmt.Sprintf(" %d %d %d", st.Dev, st.Ino, st.Ctim.Nano())
	}
	return text, nil
}

// PlaceOf tells where a process runs from where else it could: its cgroups, the mount
// namespace that containerd has, which is that of the file mounts, and its network.
func PlaceOf(mounts *os.File) (string, error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("look where this process runs: %w", err)
	}
	var namespaces []uint64
	info, err := mounts.Stat()
	if err != nil {
		return "", fmt.Errorf("look where this process runs: %w", err)
	}
	for _, name := range []string{"net", "pid", "user"} {
		other, err := os.Stat("/proc/self/ns/" + name)
		if err != nil {
			return "", fmt.Errorf("look where this process runs: %w", err)
		}
		namespaces = append(namespaces, inode(other))
	}
	return fmt.Sprintf("%s%d %v", groups, inode(info), namespaces), nil
}

func inode(info os.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
