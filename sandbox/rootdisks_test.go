package sandbox

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/config"
)

// rootfsSandbox is a sandbox without a machine, whose images would be in a directory of
// the test's.
func rootfsSandbox(t *testing.T, change func(*config.Config)) *Sandbox {
	t.Helper()
	c := config.Default()
	c.Rootfs.Layers = t.TempDir()
	if change != nil {
		change(c)
	}
	return &Sandbox{opts: Options{ID: "s", Config: c}}
}

// overlayOf makes a snapshot on one layer.
func overlayOf(t *testing.T) (mounts []*types.Mount, upper string) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"1/fs", "2/fs", "2/work"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	upper = filepath.Join(dir, "2/fs")
	return []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"workdir=" + filepath.Join(dir, "2/work"), "upperdir=" + upper, "lowerdir=" + filepath.Join(dir, "1/fs"),
	}}}, upper
}

func TestWhatCannotBeOnDisks(t *testing.T) {
	readOnly := &specs.Spec{Root: &specs.Root{Path: "rootfs", Readonly: true}}
	podSpec := &specs.Spec{Annotations: map[string]string{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "s"}}
	for _, test := range []struct {
		name   string
		config func(*config.Config)
		spec   *specs.Spec
		mounts func(t *testing.T) []*types.Mount
		says   string // empty if it can
	}{
		{name: "an overlay"},
		{name: "read-only", spec: readOnly},
		{name: "read-only view", spec: readOnly, mounts: view},
		{name: "a view", mounts: view, says: "nothing can be written"},
		{name: "configured", config: func(c *config.Config) { c.Rootfs.By = config.RootfsShare }, says: "configuration"},
		{name: "a microvm", config: func(c *config.Config) { c.QEMU.Machine = config.MachineMicroVM }, says: "microvm"},
		{name: "a pod's", spec: podSpec, says: "pod"},
		{name: "a pod's if configured", spec: podSpec, config: func(c *config.Config) { c.Rootfs.By = config.RootfsDisk }},
		{name: "a user namespace", spec: &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.UserNamespace}}}}, says: "user namespace"},
		{name: "a hook", spec: &specs.Spec{Hooks: &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/hook"}}}}, says: "hooks"},
		{name: "a hook of the guest", spec: &specs.Spec{Hooks: &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/hook"}}}}},
		{name: "no mounts", mounts: func(*testing.T) []*types.Mount { return nil }, says: "none"},
		{name: "written", mounts: written, says: "written to"},
		{name: "no snapshot", mounts: removed, says: "no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.spec == nil {
				test.spec = &specs.Spec{}
			}
			if test.mounts == nil {
				test.mounts = func(t *testing.T) []*types.Mount { m, _ := overlayOf(t); return m }
			}
			_, err := rootfsSandbox(t, test.config).diskable(test.spec, test.mounts(t))
			if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("got %v, want %q", err, test.says)
			}
		})
	}
}

func view(t *testing.T) []*types.Mount {
	mounts, _ := overlayOf(t)
	mounts[0].Options = mounts[0].Options[2:]
	return mounts
}

func written(t *testing.T) []*types.Mount {
	mounts, upper := overlayOf(t)
	if err := os.WriteFile(filepath.Join(upper, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return mounts
}

func removed(t *testing.T) []*types.Mount {
	mounts, upper := overlayOf(t)
	if err := os.RemoveAll(filepath.Dir(upper)); err != nil {
		t.Fatal(err)
	}
	return mounts
}

// TestMissingImageIsAskedFor opens the disks of a root filesystem for which there is no
// image, and then of one whose image could not be built.
func TestMissingImageIsAskedFor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are mounted")
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	s := rootfsSandbox(t, nil)
	c := &Container{id: "c", sandbox: s, spec: &specs.Spec{}, log: log.L}
	mounts, _ := overlayOf(t)
	disks, missing := s.openRootDisks(t.Context(), c, mounts)
	if disks != nil || len(missing) != 1 {
		t.Fatalf("got %+v, and %q is missing", disks, missing)
	}
	cache := s.layerCache()
	cache.MaxBytes = 1 // no image is as small
	if err := cache.Build(t.Context(), missing); err == nil {
		t.Fatal("an image of at most one byte was built")
	}
	if disks, missing := s.openRootDisks(t.Context(), c, mounts); disks != nil || missing != nil {
		t.Errorf("after a failure: %+v, and %q is missing", disks, missing)
	}
}

// TestManyContainersLeavePlacesForOtherDevices has more containers in a pod than can
// have disks.
func TestManyContainersLeavePlacesForOtherDevices(t *testing.T) {
	s := rootfsSandbox(t, nil)
	s.containers = map[string]*Container{}
	s.guest = &guest{hardware: hardware{share: true}}
	add := func(id string) *Container {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		c := &Container{id: id, log: log.L, rootDisks: &rootDisks{image: f}}
		t.Cleanup(c.rootDisks.close)
		s.boundRootDisksLocked(c)
		s.containers[id] = c
		return c
	}
	for i := range maxRootDisks {
		if c := add(string(rune('a' + i))); c.rootDisks == nil {
			t.Fatalf("container %d has no disks", i)
		}
	}
	if c := add("late"); c.rootDisks != nil {
		t.Error("one more has disks")
	}
	delete(s.containers, "a")
	if c := add("next"); c.rootDisks == nil {
		t.Error("after one has gone the next has no disks")
	}
	s.guest.share = false
	if c := add("without"); c.rootDisks == nil {
		t.Error("where there is no share it has no disks")
	}
}
