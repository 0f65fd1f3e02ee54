package factory

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/proto/channel"
	"github.com/hyperhq/hyper/virtcontainers"
)

// bootTimeout is far more than a boot takes, even on a busy host without KVM.
const bootTimeout = time.Minute

// testConfig is a configuration with a guest that `make` built, and templates of its
// own, or a skip.
func testConfig(t *testing.T) *config.Config {
	t.Helper()
	output := os.Getenv("HYPER_OUTPUT")
	if output == "" {
		t.Skip("HYPER_OUTPUT does not name the output of `make`: there is no guest to boot")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can run QEMU as another user")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skipf("no QEMU here: %v", err)
	}
	c := config.Default()
	c.Guest.Kernel = filepath.Join(output, "share/hyper/hyperkernel/vmlinux")
	c.Guest.Image = filepath.Join(output, "share/hyper/hyperkernel/initrd.img")
	if _, err := os.Stat(c.Guest.Kernel); err != nil {
		t.Skipf("this kernel is not built: %v", err)
	}
	c.Template.Directory = filepath.Join(t.TempDir(), "templates")
	return c
}

func testSpec(t *testing.T, shared bool) Spec {
	t.Helper()
	spec := Spec{ID: "test", Dir: t.TempDir(), Size: virtcontainers.Size{VCPUs: 1, MemoryMiB: 128}, MaxMemoryMiB: 256, ShareTag: "test"}
	if shared {
		spec.ShareDir = t.TempDir()
	}
	return spec
}

// answer makes a machine and waits until its guest answers and all is done that waits
// for that. It says whether the machine is a clone.
func answer(t *testing.T, f *Cloning, spec Spec) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	m, err := f.Make(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Kill(ctx); err != nil {
			t.Error(err)
		}
	}()
	conn, err := m.Channel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	session, err := channel.Connect(ctx, conn)
	if err != nil {
		t.Fatalf("%v\n%s", err, m.Log())
	}
	defer session.Close()
	m.Answered(ctx)
	return m.Cloned
}

// TestCloning has templates built when the first machine of a kind has answered, one
// for those with a share and one for those without.
func TestCloning(t *testing.T) {
	c := testConfig(t)
	for _, shared := range []bool{true, false} {
		var wanted []Kind
		f, err := NewCloning(c, func(k Kind) error { wanted = append(wanted, k); return nil })
		if err != nil {
			t.Fatal(err)
		}
		spec := testSpec(t, shared)
		if answer(t, f, spec) {
			t.Error("a clone of nothing")
		}
		want := Kind{Size: spec.Size, MaxMemoryMiB: spec.MaxMemoryMiB, Shared: shared}
		if len(wanted) != 1 || wanted[0] != want {
			t.Fatalf("asked for templates of %+v", wanted)
		}
		if err := Build(t.Context(), c, wanted[0]); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if !answer(t, f, spec) {
				t.Error("it booted, though there is a template")
			}
		}
		larger := spec
		larger.Size.MemoryMiB += 64
		if answer(t, f, larger) {
			t.Error("a clone of another size")
		}
		if len(wanted) != 2 {
			t.Errorf("asked for templates of %+v", wanted)
		}
	}
	stored, err := filepath.Glob(filepath.Join(c.Template.Directory, "*.template"))
	if err != nil || len(stored) != 2 {
		t.Errorf("stored %v, %v", stored, err)
	}
	for _, path := range stored {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("a template of %d KiB", info.Size()>>10)
	}
	if left, err := os.ReadDir(filepath.Join(c.Template.Directory, "holders")); err != nil || len(left) > 0 {
		t.Errorf("holders that are gone: %v, %v", left, err)
	}
}

// TestCloneThatDoesNotAnswer: who has waited for it in vain says so, and no other is
// made like it.
func TestCloneThatDoesNotAnswer(t *testing.T) {
	c := testConfig(t)
	f, err := NewCloning(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec := testSpec(t, false)
	if err := Build(t.Context(), c, Kind{Size: spec.Size, MaxMemoryMiB: spec.MaxMemoryMiB}); err != nil {
		t.Fatal(err)
	}
	m, err := f.Make(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	m.Failed(errors.New("no answer"))
	if err := m.Kill(t.Context()); err != nil || !m.Cloned {
		t.Errorf("a clone: %v, %v", m.Cloned, err)
	}
	if answer(t, f, spec) {
		t.Error("another clone")
	}
}

// TestTemplateOfNoUse has a template that is whole, and that QEMU cannot go on from.
func TestTemplateOfNoUse(t *testing.T) {
	c := testConfig(t)
	f, err := NewCloning(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec := testSpec(t, false)
	key, err := f.cold.key(Kind{Size: spec.Size, MaxMemoryMiB: spec.MaxMemoryMiB})
	if err != nil {
		t.Fatal(err)
	}
	err = f.store.Build(t.Context(), key, func(context.Context) (memory, state *os.File, err error) {
		if memory, err = os.Create(filepath.Join(t.TempDir(), "memory")); err != nil {
			return nil, nil, err
		}
		if err := memory.Truncate(int64(spec.Size.MemoryMiB << 20)); err != nil {
			return nil, nil, err
		}
		state, err = os.Create(filepath.Join(t.TempDir(), "state"))
		return memory, state, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if answer(t, f, spec) {
		t.Error("a clone of nothing runs")
	}
	if f.store.Wanted(key) {
		t.Error("it is to be built again at once")
	}
	if _, err := f.store.Open(key); err == nil {
		t.Error("the template is still there")
	}
}
