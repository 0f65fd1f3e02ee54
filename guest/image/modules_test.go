package image

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// moduleDir makes a kernel's module directory out of its index files and modules.
func moduleDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// As depmod writes it: every dependency, direct or not, the closest first.
const dep = `kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/char/hw_random/virtio-rng.ko.xz: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko
kernel/fs/jbd2/jbd2.ko:
kernel/crypto/crc32c_generic.ko:
kernel/a.ko: kernel/b.ko
kernel/b.ko: kernel/a.ko
`

func TestOrder(t *testing.T) {
	dir := moduleDir(t, map[string]string{
		"modules.dep":     dep,
		"modules.builtin": "kernel/fs/fuse/fuse.ko\n",
		"modules.softdep": "# Soft dependencies.\nsoftdep ext4 pre: crc32c_generic nowhere post: a\n",
	})
	modules, err := OpenModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		names []string
		want  string
		err   string
	}{
		{names: nil, want: ""},
		{names: []string{"virtio_pci"}, want: "virtio virtio_ring virtio_pci"},
		{names: []string{"virtio_rng", "virtio_pci"}, want: "virtio virtio_ring virtio_rng virtio_pci"},
		{names: []string{"virtio-rng", "virtio_rng", "virtio"}, want: "virtio virtio_ring virtio_rng"},
		{names: []string{"ext4"}, want: "crc32c_generic jbd2 ext4"},
		{names: []string{"fuse"}, want: ""},
		{names: []string{"virtio", "warp_drive"}, err: "warp_drive"},
		{names: []string{"a"}, err: "depends on itself"},
	} {
		files, err := modules.Order(c.names...)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("Order(%v) = %v, %v, want an error naming %q", c.names, files, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("Order(%v): %v", c.names, err)
			continue
		}
		var got []string
		for _, file := range files {
			got = append(got, moduleName(file))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("Order(%v) = %v, want %s", c.names, got, c.want)
		}
	}
}

func TestOpenModulesWithoutIndexes(t *testing.T) {
	if _, err := OpenModules(t.TempDir()); err == nil || !strings.Contains(err.Error(), "modules.dep") {
		t.Errorf("error is %v, want one naming modules.dep", err)
	}
	dir := moduleDir(t, map[string]string{"modules.dep": "../../etc/shadow:\n", "modules.builtin": ""})
	if _, err := OpenModules(dir); err == nil || !strings.Contains(err.Error(), "modules.dep:1") {
		t.Errorf("error is %v, want one naming the line", err)
	}
}

func TestReadDecompresses(t *testing.T) {
	const content = "a module"
	var gz, xzed bytes.Buffer
	g := gzip.NewWriter(&gz)
	g.Write([]byte(content))
	g.Close()
	x, err := xz.NewWriter(&xzed)
	if err != nil {
		t.Fatal(err)
	}
	x.Write([]byte(content))
	x.Close()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"m.ko":     content,
		"m.ko.gz":  gz.String(),
		"m.ko.xz":  xzed.String(),
		"m.ko.zst": string(z.EncodeAll([]byte(content), nil)),
	}
	modules := &Modules{dir: moduleDir(t, files)}
	for name := range files {
		got, err := modules.Read(name)
		if err != nil || string(got) != content {
			t.Errorf("Read(%s) = %q, %v", name, got, err)
		}
	}
	if _, err := modules.Read("gone.ko"); err == nil {
		t.Error("no error for a module that is not there")
	}
}

func TestDistributionModulesAreNamedOnce(t *testing.T) {
	names := DistributionModules()
	slices.Sort(names)
	if len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("a module is named twice: %v", names)
	}
}
