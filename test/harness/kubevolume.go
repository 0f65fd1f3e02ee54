package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// KubeVolume is a directory that changes as those of kubelet do.
type KubeVolume struct {
	// Dir is the volume's directory.
	Dir string

	t     T
	round int
}

// NewKubeVolume makes a ConfigMap's volume that goes with the test.
func (c *Cell) NewKubeVolume(t T, files map[string]string) *KubeVolume {
	t.Helper()
	v := &KubeVolume{t: t, Dir: filepath.Join(c.HostDir(t, nil), "pod", "volumes", "kubernetes.io~configmap", "cfg")}
	if err := os.MkdirAll(v.Dir, 0o777); err != nil {
		t.Fatalf("making a volume: %v", err)
	}
	// As fsGroup makes it.
	if err := errors.Join(os.Chown(v.Dir, 0, 3000), os.Chmod(v.Dir, 0o777|os.ModeSetgid)); err != nil {
		t.Fatalf("making a volume: %v", err)
	}
	v.Write(files)
	return v
}

// Write exchanges the volume's content.
func (v *KubeVolume) Write(files map[string]string) {
	v.t.Helper()
	old, _ := os.Readlink(filepath.Join(v.Dir, "..data"))
	v.round++
	stamp := fmt.Sprintf("..2026_01_01_00_00_%02d", v.round)
	var errs []error
	errs = append(errs, os.Mkdir(filepath.Join(v.Dir, stamp), 0o755), os.Chown(filepath.Join(v.Dir, stamp), 0, 3000))
	for name, text := range files {
		path := filepath.Join(v.Dir, stamp, name)
		errs = append(errs, os.WriteFile(path, []byte(text), 0o750), os.Chown(path, 0, 3000), os.Chmod(path, 0o750))
	}
	tmp := filepath.Join(v.Dir, "..data_tmp")
	errs = append(errs, os.Symlink(stamp, tmp), os.Rename(tmp, filepath.Join(v.Dir, "..data")))
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(v.Dir, name)); !errors.Is(err, os.ErrExist) {
			errs = append(errs, err)
		}
	}
	if old != "" {
		errs = append(errs, os.RemoveAll(filepath.Join(v.Dir, old)))
	}
	if err := errors.Join(errs...); err != nil {
		v.t.Fatalf("changing a volume: %v", err)
	}
}
