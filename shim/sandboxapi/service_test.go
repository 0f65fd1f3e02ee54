package sandboxapi

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	api "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is a sandbox whose machine is a pretence.
type machine struct {
	done chan struct{}
	boot func(ctx context.Context) error

	mu      sync.Mutex
	booted  []BootOptions
	ready   bool
	exit    Exit
	stopErr error
	stops   int
}

func (p *machine) Boot(ctx context.Context, o BootOptions) error {
	if p.boot != nil {
		if err := p.boot(ctx); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.booted, p.ready = append(p.booted, o), true
	return nil
}

func (p *machine) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := Status{Ready: p.ready, CreatedAt: time.Unix(1, 0), Info: map[string]string{"kernel": "k"}}
	if p.ready {
		st.PID = 42
	}
	return st
}

func (p *machine) Metrics(context.Context) (*stats.Metrics, error) {
	return &stats.Metrics{Pids: &stats.PidsStat{Current: 7}}, nil
}

func (p *machine) Done() <-chan struct{} { return p.done }
func (p *machine) Exit() Exit            { return p.exit }

// end is the machine's.
func (p *machine) end(status uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
	default:
		p.ready, p.exit = false, Exit{Status: status, At: time.Unix(2, 0)}
		close(p.done)
	}
}

func (p *machine) Stop(ctx context.Context) error {
	p.mu.Lock()
	p.stops++
	err := p.stopErr
	p.mu.Unlock()
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		p.end(0)
	}
	return err
}

// tasks is a task service.
type tasks struct {
	holdErr  error
	held     bool
	shutdown []string
}

func (s *tasks) Hold() error        { s.held = s.holdErr == nil; return s.holdErr }
func (s *tasks) Shutdown(id string) { s.shutdown = append(s.shutdown, id) }

type fixture struct {
	*Service
	pod     *machine
	tasks   *tasks
	openErr error
	down    chan struct{} // closed when the shim is asked to end
}

func newFixture() *fixture {
	f := &fixture{pod: &machine{done: make(chan struct{})}, tasks: &tasks{}, down: make(chan struct{})}
	f.Service = New(Options{
		Open:     func() (Sandbox, error) { return f.pod, f.openErr },
		Tasks:    f.tasks,
		Shutdown: sync.OnceFunc(func() { close(f.down) }),
	})
	return f
}

func (f *fixture) create(t *testing.T) {
	t.Helper()
	if err := f.Create(t.Context(), &api.CreateSandboxRequest{SandboxID: "p"}); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) isDown() bool {
	select {
	case <-f.down:
		return true
	default:
		return false
	}
}

func TestCreate(t *testing.T) {
	f := newFixture()
	request := &api.CreateSandboxRequest{
		SandboxID: "p", BundlePath: "/b", NetnsPath: "/run/netns/x", Annotations: map[string]string{"a": "b"},
		Options: &anypb.Any{TypeUrl: "runtime.v1.PodSandboxConfig", Value: message(
			7, message(1, "c", 2, "d"), 7, message(1, "a", 2, "other"), 8, message(5, message(4, 64<<20)))},
	}
	if err := f.Create(t.Context(), request); err != nil || !f.tasks.held {
		t.Fatalf("created: %v, held %v", err, f.tasks.held)
	}
	for _, id := range []string{"p", "q"} {
		if err := f.Create(t.Context(), &api.CreateSandboxRequest{SandboxID: id}); !errdefs.IsAlreadyExists(err) {
			t.Errorf("created again as %s: %v", id, err)
		}
	}
	st, err := f.Start(t.Context(), "p")
	if err != nil || !st.Ready || st.PID != 42 {
		t.Errorf("started: %v, %v", st, err)
	}
	memory := int64(64 << 20)
	want := BootOptions{
		Sysctls: map[string]string{},
		Bundle:  "/b", NetNS: "/run/netns/x", Annotations: map[string]string{"a": "b", "c": "d"},
		Resources: specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}},
	}
	if len(f.pod.booted) == 1 { // the files are another test's
		want.Etc = f.pod.booted[0].Etc
	}
	if len(f.pod.booted) != 1 || !reflect.DeepEqual(f.pod.booted[0], want) {
		t.Errorf("booted with %v", f.pod.booted)
	}
}

func TestRefusedCreate(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		request *api.CreateSandboxRequest
		spoil   func(*fixture)
		is      error
	}{
		"no id":   {&api.CreateSandboxRequest{}, nil, errdefs.ErrInvalidArgument},
		"rootfs":  {&api.CreateSandboxRequest{SandboxID: "p", Rootfs: []*types.Mount{{}}}, nil, errdefs.ErrNotImplemented},
		"no pod":  {&api.CreateSandboxRequest{SandboxID: "p"}, func(f *fixture) { f.openErr = broken }, broken},
		"closing": {&api.CreateSandboxRequest{SandboxID: "p"}, func(f *fixture) { f.tasks.holdErr = errdefs.ErrUnavailable }, errdefs.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			if c.spoil != nil {
				c.spoil(f)
			}
			if err := f.Create(t.Context(), c.request); !errors.Is(err, c.is) {
				t.Errorf("created: %v", err)
			}
			if _, _, err := f.Status("p"); !errdefs.IsNotFound(err) || f.tasks.held {
				t.Errorf("it is there: %v, held %v", err, f.tasks.held)
			}
		})
	}
}

func TestMachineDies(t *testing.T) {
	f := newFixture()
	f.create(t)
	if _, err := f.Start(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	if st, exit, err := f.Status("p"); err != nil || !st.Ready || exit != nil {
		t.Errorf("it is %v, %v, %v", st, exit, err)
	}
	if err := f.Ping("p"); err != nil {
		t.Errorf("ping: %v", err)
	}
	waited := make(chan Exit, 1)
	go func() {
		exit, _ := f.Wait(context.Background(), "p")
		waited <- exit
	}()
	f.pod.end(137)
	want := Exit{Status: 137, At: time.Unix(2, 0)}
	if exit := <-waited; exit != want {
		t.Errorf("it exited %v", exit)
	}
	if st, exit, err := f.Status("p"); err != nil || st.Ready || exit == nil || *exit != want {
		t.Errorf("it is %v, %v, %v", st, exit, err)
	}
	if err := f.Ping("p"); !errdefs.IsUnavailable(err) {
		t.Errorf("ping: %v", err)
	}
	if f.isDown() {
		t.Error("the shim ended with its machine")
	}
}

func TestWaitIsGivenUp(t *testing.T) {
	f := newFixture()
	f.create(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Wait(ctx, "p"); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: %v", err)
	}
}

func TestStop(t *testing.T) {
	f := newFixture()
	f.create(t)
	if err := f.Stop(t.Context(), "p", time.Nanosecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without time: %v", err)
	}
	for range 2 {
		if err := f.Stop(t.Context(), "p", 0); err != nil {
			t.Errorf("stop: %v", err)
		}
	}
	if exit, err := f.Wait(t.Context(), "p"); err != nil || exit.Status != 0 {
		t.Errorf("it exited %v, %v", exit, err)
	}
	if f.isDown() {
		t.Error("the shim ended with its sandbox")
	}
}

func TestShutdown(t *testing.T) {
	t.Run("created", func(t *testing.T) {
		f := newFixture()
		f.create(t)
		if err := f.Shutdown(t.Context(), "c"); err != nil || f.isDown() {
			t.Errorf("of another: %v, down %v", err, f.isDown())
		}
		if err := f.Shutdown(t.Context(), "p"); err != nil || !f.isDown() || f.pod.stops != 1 {
			t.Errorf("shutdown: %v, down %v, %d stops", err, f.isDown(), f.pod.stops)
		}
	})
	t.Run("does not stop", func(t *testing.T) {
		f := newFixture()
		f.create(t)
		f.pod.stopErr = errors.New("stuck")
		if err := f.Shutdown(t.Context(), "p"); err == nil || !f.isDown() {
			t.Errorf("shutdown: %v, down %v", err, f.isDown())
		}
		if err := f.Close(t.Context()); !errors.Is(err, f.pod.stopErr) {
			t.Errorf("close: %v", err)
		}
	})
	t.Run("not created", func(t *testing.T) {
		f := newFixture()
		if err := f.Shutdown(t.Context(), "p"); err != nil || f.isDown() {
			t.Errorf("shutdown: %v, down %v", err, f.isDown())
		}
		if want := []string{"p"}; !reflect.DeepEqual(f.tasks.shutdown, want) {
			t.Errorf("the task service was asked %v", f.tasks.shutdown)
		}
		if err := f.Close(t.Context()); err != nil || f.pod.stops != 0 {
			t.Errorf("close: %v, %d stops", err, f.pod.stops)
		}
	})
}

// dial serves a fixture, and connects to it.
func dial(t *testing.T, f *fixture) api.TTRPCSandboxService {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	Register(server, f.Service)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(context.Background(), l)
	}()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
		<-served
	})
	return api.NewTTRPCSandboxClient(client)
}

func TestRPC(t *testing.T) {
	f := newFixture()
	c, ctx := dial(t, f), t.Context()
	if _, err := c.SandboxStatus(ctx, &api.SandboxStatusRequest{SandboxID: "p"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("status before it is created: %v", err)
	}
	if _, err := c.CreateSandbox(ctx, &api.CreateSandboxRequest{SandboxID: "p"}); err != nil {
		t.Fatal(err)
	}
	if st, err := c.SandboxStatus(ctx, &api.SandboxStatusRequest{SandboxID: "p"}); err != nil || st.State != "SANDBOX_NOTREADY" || st.Info != nil || st.ExitedAt != nil {
		t.Errorf("created, it is %v, %v", st, err)
	}
	if r, err := c.StartSandbox(ctx, &api.StartSandboxRequest{SandboxID: "p"}); err != nil || r.Pid != 42 || r.CreatedAt.AsTime().Unix() != 1 {
		t.Errorf("started: %v, %v", r, err)
	}
	st, err := c.SandboxStatus(ctx, &api.SandboxStatusRequest{SandboxID: "p", Verbose: true})
	if err != nil || st.State != "SANDBOX_READY" || st.Pid != 42 || st.Info["kernel"] != "k" || st.CreatedAt.AsTime().Unix() != 1 {
		t.Errorf("started, it is %v, %v", st, err)
	}
	if r, err := c.Platform(ctx, &api.PlatformRequest{SandboxID: "p"}); err != nil || r.Platform.OS != "linux" || r.Platform.Architecture != runtime.GOARCH {
		t.Errorf("its platform is %v, %v", r, err)
	}
	if _, err := c.PingSandbox(ctx, &api.PingRequest{SandboxID: "p"}); err != nil {
		t.Errorf("ping: %v", err)
	}
	if _, err := c.UpdateSandbox(ctx, &api.UpdateSandboxRequest{SandboxID: "p"}); !errdefs.IsNotImplemented(errgrpc.ToNative(err)) {
		t.Errorf("update: %v", err)
	}
	metrics, err := c.SandboxMetrics(ctx, &api.SandboxMetricsRequest{SandboxID: "p"})
	var m stats.Metrics
	if err != nil || metrics.Metrics.ID != "p" || metrics.Metrics.Data.TypeUrl != "io.containerd.cgroups.v2.Metrics" ||
		proto.Unmarshal(metrics.Metrics.Data.Value, &m) != nil || m.Pids.Current != 7 {
		t.Errorf("its metrics are %v, %v", metrics, err)
	}
	if _, err := c.StopSandbox(ctx, &api.StopSandboxRequest{SandboxID: "p", TimeoutSecs: 3}); err != nil {
		t.Errorf("stop: %v", err)
	}
	if r, err := c.WaitSandbox(ctx, &api.WaitSandboxRequest{SandboxID: "p"}); err != nil || r.ExitStatus != 0 || r.ExitedAt.AsTime().Unix() != 2 {
		t.Errorf("wait: %v, %v", r, err)
	}
	if st, err := c.SandboxStatus(ctx, &api.SandboxStatusRequest{SandboxID: "p"}); err != nil || st.State != "SANDBOX_NOTREADY" || st.ExitedAt.AsTime().Unix() != 2 {
		t.Errorf("stopped, it is %v, %v", st, err)
	}
	if _, err := c.ShutdownSandbox(ctx, &api.ShutdownSandboxRequest{SandboxID: "p"}); err != nil || !f.isDown() {
		t.Errorf("shutdown: %v, down %v", err, f.isDown())
	}
}
