package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox/factory"
)

// factoryFunc makes no machine, only failures.
type factoryFunc func(ctx context.Context, spec factory.Spec) error

func (f factoryFunc) Make(ctx context.Context, spec factory.Spec) (*factory.Machine, error) {
	return nil, f(ctx, spec)
}

var errNoMachine = errors.New("there are no machines here")

func newTestSandbox(t *testing.T, f factoryFunc) *Sandbox {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	s, err := New(Options{ID: "pod", Dir: filepath.Join(t.TempDir(), "sandbox"), Config: config.Default(), Factory: f})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *Sandbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// ended returns how a sandbox ended, which must not take long.
func ended(t *testing.T, s *Sandbox) Exit {
	t.Helper()
	select {
	case <-s.Done():
		return s.Exit()
	case <-time.After(10 * time.Second):
		t.Fatal("it has not ended")
		return Exit{}
	}
}

// TestBootAsksFor sees what machine is asked for, by the sandbox's bundle and by
// what containerd says beside it.
func TestBootAsksFor(t *testing.T) {
	configured := config.Default().Sandbox
	limit := int64(600 << 20)
	for name, c := range map[string]struct {
		config  string // of the bundle; none if empty
		options BootOptions
		memory  uint64
		netNS   string
	}{
		"nothing": {"", BootOptions{}, configured.MemoryMiB, ""},
		"a limit": {`{"linux": {"resources": {"memory": {"limit": 536870912}}}}`, BootOptions{}, 512 + 96 + 8, ""},
		"a namespace": {
			`{"linux": {"namespaces": [{"type": "network", "path": "/run/netns/a"}, {"type": "ipc", "path": "/b"}]}}`,
			BootOptions{}, configured.MemoryMiB, "/run/netns/a",
		},
		"a namespace beside": {
			`{"linux": {"namespaces": [{"type": "network", "path": "/run/netns/a"}]}}`,
			BootOptions{NetNS: "/run/netns/c"}, configured.MemoryMiB, "/run/netns/c",
		},
		"a limit beside": {
			`{"linux": {"resources": {"memory": {"limit": 536870912}}}}`,
			BootOptions{Resources: specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}}, 600 + 96 + 9, "",
		},
		"no OCI at all": {`{"any": "thing"}`, BootOptions{}, configured.MemoryMiB, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var asked factory.Spec
			s := newTestSandbox(t, func(_ context.Context, spec factory.Spec) error {
				asked = spec
				return errNoMachine
			})
			bundle := t.TempDir()
			if c.config != "" {
				if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(c.config), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c.options.Bundle = bundle
			if err := s.Boot(t.Context(), c.options); !errors.Is(err, errNoMachine) {
				t.Fatalf("boot: %v", err)
			}
			if asked.Size.MemoryMiB != c.memory || asked.NetNS != c.netNS {
				t.Errorf("it asked for %d MiB in %q, want %d in %q", asked.Size.MemoryMiB, asked.NetNS, c.memory, c.netNS)
			}
		})
	}
}

func TestBootRefuses(t *testing.T) {
	s := newTestSandbox(t, func(context.Context, factory.Spec) error {
		t.Error("a machine was made")
		return errNoMachine
	})
	if err := s.Boot(t.Context(), BootOptions{Annotations: map[string]string{config.AnnotationPrefix + "unknown": "1"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an unknown annotation: %v", err)
	}
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Boot(t.Context(), BootOptions{Bundle: bundle}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a broken configuration: %v", err)
	}
	if st := s.Status(); st.Ready || st.PID != 0 || st.Size.VCPUs != 0 {
		t.Errorf("it is %+v", st)
	}
	stop(t, s)
	if err := s.Boot(t.Context(), BootOptions{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("after its end: %v", err)
	}
	if exit := ended(t, s); exit.Status != 0 {
		t.Errorf("it exited %d", exit.Status)
	}
}

func TestFailedBootEndsTheSandbox(t *testing.T) {
	s := newTestSandbox(t, func(context.Context, factory.Spec) error { return errNoMachine })
	for range 2 {
		if err := s.Boot(t.Context(), BootOptions{}); !errors.Is(err, errNoMachine) {
			t.Errorf("boot: %v", err)
		}
	}
	if exit := ended(t, s); exit.Status != 137 || time.Since(exit.At) > time.Minute {
		t.Errorf("it exited %+v", exit)
	}
	if st := s.Status(); st.Ready || st.PID != 0 {
		t.Errorf("it is %+v", st)
	}
	if _, err := s.Metrics(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("metrics: %v", err)
	}
}

// TestStopWhileBooting gives a boot up, which is no failure of the sandbox.
func TestStopWhileBooting(t *testing.T) {
	making := make(chan struct{})
	s := newTestSandbox(t, func(ctx context.Context, _ factory.Spec) error {
		close(making)
		<-ctx.Done()
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	booted := make(chan error, 1)
	go func() { booted <- s.Boot(ctx, BootOptions{}) }()
	<-making
	cancel()
	if err := <-booted; !errors.Is(err, context.Canceled) {
		t.Errorf("boot: %v", err)
	}
	select {
	case <-s.Done():
		t.Error("it ended with the request that booted it")
	default:
	}
	stop(t, s)
	if exit := ended(t, s); exit.Status != 0 {
		t.Errorf("it exited %d", exit.Status)
	}
}

// A container whose machine does not start gets the machine's error, and leaves
// nothing behind.
func TestCreateWithoutAMachine(t *testing.T) {
	s := newTestSandbox(t, func(context.Context, factory.Spec) error { return errNoMachine })
	bundle := t.TempDir()
	const config = `{"process": {"args": ["true"], "cwd": "/"}, "root": {"path": "rootfs"}, "linux": {}}`
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(bundle, "rootfs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateContainer(t.Context(), ContainerOptions{ID: "c", Bundle: bundle}); !errors.Is(err, errNoMachine) {
		t.Errorf("got %v", err)
	}
	if s.Len() != 0 {
		t.Error("the container is still there")
	}
}
