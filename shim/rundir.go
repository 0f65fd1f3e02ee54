package shim

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"

	"github.com/hyperhq/hyper/sandbox/record"
)

// defaultRunRoot is where servers have their run directories.
const defaultRunRoot = "/run/hyper"

// The files in a run directory beside those that package record names: see the
// package's comment.
const (
	addressFile = "address"
	closingFile = "closing"
)

// runRoot is $HYPER_RUN_DIR or defaultRunRoot.
func runRoot(env func(string) string) string {
	if dir := env("HYPER_RUN_DIR"); dir != "" {
		return dir
	}
	return defaultRunRoot
}

// runDir is a server's run directory.
type runDir string

// runPrefix is what the names of run directories of an address begin with.
func runPrefix(address string) string {
	sum := sha256.Sum256([]byte(address))
	return fmt.Sprintf("%x-", sum[:8])
}

// makeRunDir makes a new one for the server at address. It may be passed by the
// sandbox's unprivileged processes, but not listed.
func makeRunDir(root, address string) (runDir, error) {
	if err := os.MkdirAll(root, 0o711); err != nil {
		return "", fmt.Errorf("make the run directory: %w", err)
	}
	dir, err := os.MkdirTemp(root, runPrefix(address))
	if err != nil {
		return "", fmt.Errorf("make the run directory: %w", err)
	}
	d := runDir(dir)
	err = errors.Join(os.Chmod(dir, 0o711), writeFile(d.file(addressFile), address))
	if err != nil {
		return "", errors.Join(fmt.Errorf("make the run directory: %w", err), d.remove())
	}
	return d, nil
}

// findRunDirs returns those of an address: that of the server, and of dead ones
// that had the same address before it.
func findRunDirs(root, address string) ([]runDir, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the server's run directory: %w", err)
	}
	var dirs []runDir
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), runPrefix(address)) {
			dirs = append(dirs, runDir(filepath.Join(root, e.Name())))
		}
	}
	return dirs, nil
}

func (d runDir) file(name string) string { return filepath.Join(string(d), name) }

// sandbox is the directory of the sandbox.
func (d runDir) sandbox() string { return d.file(record.SandboxDir) }

// pids is the record of the sandbox's processes.
func (d runDir) pids() string { return filepath.Join(d.sandbox(), record.PidsFile) }

// server returns a handle of the server, nil if it is gone.
func (d runDir) server() (*record.Handle, error) {
	rs, err := record.Read(d.file(record.ShimFile))
	if err != nil || len(rs) == 0 {
		return nil, err
	}
	return rs[0].Open()
}

// recordServer writes down the server's process.
func (d runDir) recordServer(pid int) error {
	r, err := record.Of(pid, "shim")
	if err != nil {
		return err
	}
	return writeFile(d.file(record.ShimFile), r.String()+"\n")
}

// close marks that the server has begun to end.
func (d runDir) close() error { return writeFile(d.file(closingFile), "") }

// closing reports whether the server has begun to end.
func (d runDir) closing() bool {
	_, err := os.Stat(d.file(closingFile))
	return err == nil
}

// remove removes the directory. It refuses to where something is still mounted
// below: that may be somebody's volume. The mounts of a server end with it, so
// whoever looks later can remove the rest.
func (d runDir) remove() error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(string(d)))
	if err != nil {
		return fmt.Errorf("remove the run directory: %w", err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("remove the run directory: %s is still mounted: %w", mounts[0].Mountpoint, errdefs.ErrFailedPrecondition)
	}
	return os.RemoveAll(string(d))
}

// writeFile writes a file that is either whole or not there.
func writeFile(path, text string) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
