package sandbox

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox/factory"
	"github.com/hyperhq/hyper/sandbox/rehearsal"
	"github.com/hyperhq/hyper/virtcontainers"
)

func TestWantsOf(t *testing.T) {
	limit := int64(512 << 20)
	for name, c := range map[string]struct {
		config func(*config.Config)
		spec   func(*specs.Spec)
		ok     bool
		memory uint64
	}{
		"a container":     {ok: true, memory: 256},
		"a limit":         {spec: func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit} }, ok: true, memory: 512 + 96 + 8},
		"a size":          {spec: func(s *specs.Spec) { s.Annotations = map[string]string{config.AnnotationPrefix + "memory_mib": "300"} }, ok: true, memory: 300},
		"a bad size":      {spec: func(s *specs.Spec) { s.Annotations = map[string]string{config.AnnotationPrefix + "memory_mib": "x"} }},
		"a given network": {spec: func(s *specs.Spec) { s.Linux.Namespaces[4].Path = "/run/netns/x" }},
		"a bind": {spec: func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: "/x", Destination: "/x"})
		}},
		"a hook":                   {spec: func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/x"}}} }},
		"a pod":                    {spec: func(s *specs.Spec) { s.Annotations = map[string]string{"io.kubernetes.cri.container-type": "sandbox"} }},
		"a user namespace":         {spec: func(s *specs.Spec) { s.Linux.Namespaces[0].Type = specs.UserNamespace }},
		"a pod of the sandbox API": {spec: func(s *specs.Spec) { s.Process = nil }},
		"no linux":                 {spec: func(s *specs.Spec) { s.Linux = nil }},
		"no templates":             {config: func(c *config.Config) { c.Template.Enable = false }},
		"a microvm":                {config: func(c *config.Config) { c.QEMU.Machine = config.MachineMicroVM }},
		"always by the share":      {config: func(c *config.Config) { c.Rootfs.By = config.RootfsShare }},
	} {
		conf, spec := config.Default(), rehearsal.Spec()
		conf.Sandbox.MaxMemoryMiB = 4096
		if c.config != nil {
			c.config(conf)
		}
		if c.spec != nil {
			c.spec(spec)
		}
		wants, ok := WantsOf(conf, spec)
		if ok != c.ok || ok && wants.Size.MemoryMiB != c.memory {
			t.Errorf("%s: %+v, %v", name, wants, ok)
		}
	}
}

func TestWantsMeet(t *testing.T) {
	size := sizing{size: virtcontainers.Size{MemoryMiB: 256, VCPUs: 1}, leastCPUs: 1, mostCPUs: 8}
	more, larger, room := size, size, size
	more.size.VCPUs, larger.size.MemoryMiB, room.mostCPUs = 2, 300, 16
	for name, c := range map[string]struct {
		hardware
		want bool
	}{
		"the same":         {hardware{sizing: size}, true},
		"more in use":      {hardware{sizing: more}, true},
		"more memory":      {hardware{sizing: larger}, false},
		"more room":        {hardware{sizing: room}, false},
		"a share":          {hardware{sizing: size, share: true}, false},
		"a given network":  {hardware{sizing: size, pod: virtcontainers.Pod{NetNS: "/x"}}, false},
		"the host network": {hardware{sizing: size, pod: virtcontainers.Pod{HostNetwork: true}}, true},
	} {
		if got := size.machineOf().meet(c.hardware); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// parkable is a configuration of what `make` built, with templates of its own, or a skip.
func parkable(t *testing.T) *config.Config {
	t.Helper()
	output := os.Getenv("HYPER_OUTPUT")
	if output == "" {
		t.Skip("HYPER_OUTPUT does not name the output of `make`: there is no guest to boot")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can run QEMU as another user")
	}
	for _, program := range []string{"qemu-system-x86_64", "mkfs.erofs", "mkfs.ext4"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	c := config.Default()
	c.Guest.Kernel = filepath.Join(output, "share/hyper/hyperkernel/vmlinux")
	c.Guest.Image = filepath.Join(output, "share/hyper/hyperkernel/initrd.img")
	if _, err := os.Stat(c.Guest.Kernel); err != nil {
		t.Skipf("this kernel is not built: %v", err)
	}
	c.Template.Directory = filepath.Join(t.TempDir(), "templates")
	c.Rootfs.Layers = filepath.Join(t.TempDir(), "layers")
	return c
}

// TestPark parks a machine, wakes it and ends it.
func TestPark(t *testing.T) {
	c := parkable(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	parkedSize := sizing{size: virtcontainers.Size{VCPUs: 1, MemoryMiB: 128}, leastCPUs: 1, mostCPUs: 2}
	o := ParkOptions{ID: "test", Dir: t.TempDir(), Config: c, Wants: parkedSize.machineOf()}
	if _, err := Park(ctx, o); !errors.Is(err, ErrNoTemplate) {
		t.Fatalf("without a template: %v", err)
	}
	if err := factory.Build(ctx, c, factory.Kind{Size: o.Wants.Size, MaxVCPUs: o.Wants.MaxVCPUs, MaxMemoryMiB: c.Limits().MemoryMiB}); err != nil {
		t.Fatal(err)
	}
	p, err := Park(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Kill(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	t.Logf("QEMU has a PSS of %d KiB", pss(t, p.machine.PID()))
	if err := p.Check(); err != nil {
		t.Errorf("of the template that was just made: %v", err)
	}
	p.Wake()
	if err := p.fits(ctx, hardware{sizing: parkedSize}); err != nil {
		t.Errorf("it is of no use: %v", err)
	}
	if err := p.fits(ctx, hardware{sizing: parkedSize, share: true}); err == nil {
		t.Error("it is of use to who wants a share")
	}
	c.Guest.KernelArgs = []string{"another"}
	if err := p.Check(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("of another kernel's command line: %v", err)
	}
	if err := p.machine.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		t.Fatal("the end of the machine is not told")
	}
	if err := p.fits(ctx, hardware{sizing: parkedSize}); err == nil {
		t.Error("a machine that has ended is of use")
	}
}

// pss is what a process takes of memory, in KiB.
func pss(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "Pss:" {
			kib, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return kib
		}
	}
	t.Fatal("the kernel tells no PSS")
	return 0
}
