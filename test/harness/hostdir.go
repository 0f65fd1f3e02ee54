package harness

import (
	"os"
	"path/filepath"
)

// HostDir makes a directory below the cell's own, which the test's mounts and
// files can be in, with files by name. It goes with the test.
func (c *Cell) HostDir(t T, files map[string]string) string {
	t.Helper()
	return HostDirIn(t, c.Dir, files)
}

// HostDirIn is HostDir below another directory.
func HostDirIn(t T, parent string, files map[string]string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "host-")
	if err != nil {
		t.Fatalf("making a directory: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatalf("making a directory: %v", err)
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatalf("making a directory: %v", err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatalf("making a file: %v", err)
		}
	}
	return dir
}
