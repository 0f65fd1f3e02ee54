package qemu

import (
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/qemu/process"
)

// program is the file that is executed: what the binary's path leads to, because the
// links on the way may be where QEMU does not see them.
func program(binary string) (string, error) {
	path, err := filepath.EvalSymlinks(binary)
	if err != nil {
		return "", fmt.Errorf("QEMU binary %s: %w: %w", binary, err, errdefs.ErrFailedPrecondition)
	}
	return path, nil
}

// root is what QEMU sees of the host's files. All that it works with it inherits as
// descriptors; so these are the program itself with what it loads, and few devices.
func root(program string, files []string, kvm bool) *process.Root {
	start := []string{
		"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
		"/etc/ld.so.cache",
		"/etc/alternatives", // links to libraries
	}
	// A QEMU that is installed elsewhere looks for its modules and ROMs beside its own
	// directory.
	dir := filepath.Dir(program)
	prefix := filepath.Dir(dir)
	start = append(start, dir)
	for _, dir := range []string{"lib", "lib64", "libexec", "share/qemu", "share/seabios"} {
		start = append(start, filepath.Join(prefix, dir))
	}
	start = append(start, files...)
	if kvm {
		start = append(start, kvmDevice)
	}
	return &process.Root{
		Start: start,
		Keep: []string{
			"/dev/null",    // to try which locks the host's files have, at the first disk
			"/dev/urandom", // at the first disk too
			"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", // at a device of memory
		},
	}
}
