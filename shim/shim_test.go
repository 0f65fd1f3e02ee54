package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"github.com/hyperhq/hyper/sandbox/record"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// buildDir is where the binary is built; TestMain makes and removes it.
var buildDir string

// buildShim builds the binary once for all tests.
var buildShim = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "containerd-shim-hyper-v2")
	out, err := exec.Command("go", "build", "-o", path, "../cmd/containerd-shim-hyper-v2").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the shim: %w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	beServer()
	dir, err := os.MkdirTemp("", "hyper-shim-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// site is where a test's shims live.
type site struct {
	t       *testing.T
	binary  string
	dir     string
	env     []string
	sockets string // socket_dir
	runs    string // HYPER_RUN_DIR
}

func newSite(t *testing.T) *site {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the server needs root for its mount namespace")
	}
	binary, err := buildShim()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "hs") // short: a socket's path is
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, binary: binary, dir: dir, sockets: filepath.Join(dir, "s"), runs: filepath.Join(dir, "r")}
	s.env = append(os.Environ(), "HYPER_RUN_DIR="+s.runs, "TTRPC_ADDRESS=")
	t.Cleanup(func() {
		for _, h := range s.servers() {
			t.Errorf("server %s was left", h.Process)
			_ = record.KillAll(context.Background(), []*record.Handle{h})
		}
		_ = os.RemoveAll(dir)
	})
	return s
}

// bundle makes a bundle, with a group annotation unless that is empty.
func (s *site) bundle(id, group string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, "b", id)
	if err := os.MkdirAll(path, 0o700); err != nil {
		s.t.Fatal(err)
	}
	spec := `{"ociVersion":"1.1.0"}`
	if group != "" {
		spec = `{"annotations":{"io.kubernetes.cri.sandbox-id":"` + group + `"}}`
	}
	if err := os.WriteFile(filepath.Join(path, "config.json"), []byte(spec), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// command is the shim run in a bundle as containerd runs it.
func (s *site) command(bundle, action string, env ...string) *exec.Cmd {
	id := filepath.Base(bundle)
	cmd := exec.Command(s.binary, "-namespace", "ns", "-address", s.dir+"/containerd", "-publish-binary", "/bin/containerd", "-id", id)
	if action == "delete" {
		cmd.Args = append(cmd.Args, "-bundle", bundle)
	}
	cmd.Args = append(cmd.Args, action)
	cmd.Dir = bundle
	cmd.Env = append(append([]string(nil), s.env...), env...)
	return cmd
}

// params are containerd 2.4's for a bundle.
func (s *site) params(bundle string) []byte {
	return encoded(s.t, &bootstrap.BootstrapParams{
		InstanceID: filepath.Base(bundle), Namespace: "ns", SocketDir: &s.sockets,
		ContainerdGrpcAddress: s.dir + "/containerd", ContainerdVersion: "2.4.2",
	})
}

// start starts a shim as containerd 2.4 does, and returns its address.
func (s *site) start(bundle string, env ...string) (string, error) {
	cmd := s.command(bundle, "start", append(env, "MAX_SHIM_VERSION=2")...)
	cmd.Stdin = bytes.NewReader(s.params(bundle))
	out, err := cmd.CombinedOutput() // as containerd does: standard error must be empty
	if err != nil {
		return "", fmt.Errorf("start: %w: %s", err, out)
	}
	var r bootstrap.BootstrapResult
	if err := proto.Unmarshal(out, &r); err != nil {
		return "", fmt.Errorf("start printed %q: %w", out, err)
	}
	if r.Version != 3 || r.Protocol != "ttrpc" {
		return "", fmt.Errorf("start printed %v", &r)
	}
	return r.Address, nil
}

func (s *site) mustStart(bundle string, env ...string) string {
	s.t.Helper()
	address, err := s.start(bundle, env...)
	if err != nil {
		s.t.Fatal(err)
	}
	return address
}

// delete runs delete and returns what it printed.
func (s *site) delete(bundle string) *api.DeleteResponse {
	s.t.Helper()
	begun := time.Now()
	cmd := s.command(bundle, "delete")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		s.t.Fatalf("delete: %v: %s", err, stderr.Bytes())
	}
	if d := time.Since(begun); d > 5*time.Second {
		s.t.Errorf("delete took %s: containerd does not wait so long", d)
	}
	r := &api.DeleteResponse{}
	if err := proto.Unmarshal(out, r); err != nil {
		s.t.Fatalf("delete printed %q: %v", out, err)
	}
	if r.ExitedAt == nil {
		s.t.Errorf("delete printed %v", r)
	}
	return r
}

// servers are those that live.
func (s *site) servers() []*record.Handle {
	s.t.Helper()
	var hs []*record.Handle
	entries, err := os.ReadDir(s.runs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		h, err := runDir(filepath.Join(s.runs, e.Name())).server()
		if err != nil {
			s.t.Fatal(err)
		}
		if h != nil {
			hs = append(hs, h)
		}
	}
	return hs
}

// server is the only one.
func (s *site) server() *record.Handle {
	s.t.Helper()
	hs := s.servers()
	if len(hs) != 1 {
		s.t.Fatalf("%d servers live", len(hs))
	}
	s.t.Cleanup(func() { _ = hs[0].Close() })
	return hs[0]
}

// clean fails the test unless nothing is left of any shim.
func (s *site) clean() {
	s.t.Helper()
	for _, dir := range []string{s.runs, s.sockets} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.t.Fatal(err)
		}
		for _, e := range entries {
			s.t.Errorf("%s is left", filepath.Join(dir, e.Name()))
		}
	}
}

func TestStartSpeaksToEveryContainerd(t *testing.T) {
	for name, c := range map[string]struct {
		env    []string
		stdin  func(s *site, bundle string) []byte
		expect func(out []byte) (address string)
	}{
		"1.6": {nil, nil, func(out []byte) string { return string(out) }},
		"1.7": {[]string{"MAX_SHIM_VERSION=2"}, nil, func(out []byte) string {
			var r struct {
				Version           int
				Address, Protocol string
			}
			if json.Unmarshal(out, &r) != nil || r.Version != 2 || r.Protocol != "ttrpc" {
				return ""
			}
			return r.Address
		}},
		"2.4": {[]string{"MAX_SHIM_VERSION=2"}, (*site).params, func(out []byte) string {
			var r bootstrap.BootstrapResult
			if proto.Unmarshal(out, &r) != nil || r.Version != 3 || r.Protocol != "ttrpc" {
				return ""
			}
			return r.Address
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			b := s.bundle("c", "")
			cmd := s.command(b, "start", c.env...)
			want := "unix://" + s.sockets + "/"
			if c.stdin != nil {
				cmd.Stdin = bytes.NewReader(c.stdin(s, b))
			} else {
				want = "unix:///run/containerd/s/" // they can not choose
			}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("start: %v: %s", err, out)
			}
			address := c.expect(out)
			if !strings.HasPrefix(address, want) {
				t.Errorf("start printed %q", out)
			}
			if err := connect(t, address, "c"); err != nil {
				t.Errorf("connect: %v", err)
			}
			s.delete(b)
			s.clean()
			if _, err := os.Lstat(strings.TrimPrefix(address, "unix://")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the socket is left (%v)", err)
			}
		})
	}
}

// dial is a connection to a server.
func dial(t *testing.T, address string) *ttrpc.Client {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// tasks is a client of a server's task service.
func tasks(t *testing.T, address string) api.TTRPCTaskService {
	t.Helper()
	return api.NewTTRPCTaskClient(dial(t, address))
}

func connect(t *testing.T, address, id string) error {
	t.Helper()
	r, err := tasks(t, address).Connect(t.Context(), &api.ConnectRequest{ID: id})
	if err == nil && r.ShimPid == 0 {
		err = errors.New("no pid")
	}
	return err
}

func TestAGroupHasOneServer(t *testing.T) {
	s := newSite(t)
	var wg sync.WaitGroup
	var bundles []string
	addresses := make([]string, 4)
	errs := make([]error, 4)
	for i := range 4 {
		b := s.bundle("c"+strconv.Itoa(i), "pod")
		bundles = append(bundles, b)
		wg.Go(func() { addresses[i], errs[i] = s.start(b) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if a != addresses[0] {
			t.Errorf("addresses %q", addresses)
		}
	}
	server := s.server()
	alone := s.mustStart(s.bundle("alone", ""))
	if alone == addresses[0] {
		t.Error("a container of no group is in the group")
	}
	s.delete(s.bundle("alone", ""))
	// None of the group has made a container: only the one whose server it is
	// ends it.
	for _, b := range bundles {
		s.delete(b)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := server.Wait(ctx); err != nil {
		t.Error(err)
	}
	s.clean()
}

func TestDeleteFromAnyState(t *testing.T) {
	for name, before := range map[string]func(t *testing.T, s *site, h *record.Handle){
		"it lives": func(*testing.T, *site, *record.Handle) {},
		"it was killed": func(t *testing.T, s *site, h *record.Handle) {
			if err := errors.Join(h.Kill(), h.Wait(t.Context())); err != nil {
				t.Fatal(err)
			}
		},
		"it hangs": func(t *testing.T, s *site, h *record.Handle) {
			if err := unix.Kill(h.Process.PID, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		},
		"it was asked to end": func(t *testing.T, s *site, h *record.Handle) {
			if err := unix.Kill(h.Process.PID, unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
		},
		"its socket is gone": func(t *testing.T, s *site, h *record.Handle) {
			if err := os.RemoveAll(s.sockets); err != nil {
				t.Fatal(err)
			}
		},
		"it was killed and left a process": func(t *testing.T, s *site, h *record.Handle) {
			p := sleeper(t)
			r, err := record.Of(p.Process.Pid, "qemu")
			if err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(s.runs)
			if err != nil || len(entries) != 1 {
				t.Fatal(entries, err)
			}
			dir := runDir(filepath.Join(s.runs, entries[0].Name()))
			if err := os.Mkdir(dir.sandbox(), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir.sandbox(), "pids"), []byte(r.String()+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(h.Kill(), h.Wait(t.Context())); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := p.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
					t.Errorf("the process ended with %v", err)
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			b := s.bundle("c", "")
			s.mustStart(b)
			h := s.server()
			before(t, s, h)
			if r := s.delete(b); r.ExitStatus != 137 {
				t.Errorf("delete printed %v", r)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := h.Wait(ctx); err != nil {
				t.Errorf("the server lives: %v", err)
			}
			s.clean()
			s.delete(b) // again
		})
	}
}

func TestDeleteWithoutStart(t *testing.T) {
	s := newSite(t)
	s.delete(s.bundle("c", ""))
	s.clean()
}

func TestADeadServersSocketIsReplaced(t *testing.T) {
	s := newSite(t)
	b := s.bundle("c", "")
	first := s.mustStart(b)
	h := s.server()
	if err := errors.Join(h.Kill(), h.Wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	if second := s.mustStart(b); second != first {
		t.Errorf("addresses %s and %s", first, second)
	}
	s.delete(b)
	s.clean()
}

func TestBadStarts(t *testing.T) {
	s := newSite(t)
	b := s.bundle("c", "")
	for name, c := range map[string]struct {
		spec, want string
		dir        string
	}{
		"broken spec":   {"{", "config.json", ""},
		"long dir":      {"{}", "socket_dir", "/" + strings.Repeat("x", 50)},
		"dir in a file": {"{}", "socket", "/etc/passwd/s"},
	} {
		path := filepath.Join(b, "config.json")
		if err := os.WriteFile(path, []byte(c.spec), 0o600); err != nil {
			t.Fatal(err)
		}
		was := s.sockets
		if c.dir != "" {
			s.sockets = c.dir
		}
		_, err := s.start(b)
		s.sockets = was
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.delete(b)
	s.clean()
}

func TestServerIsApart(t *testing.T) {
	s := newSite(t)
	shared := filepath.Join(s.dir, "shared")
	if err := os.MkdirAll(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	mount := func(target string, flags uintptr) {
		t.Helper()
		if err := unix.Mount("tmpfs", target, "tmpfs", flags, "size=64k"); err != nil {
			t.Skipf("mounting is not allowed: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
	mount(shared, 0)
	if err := unix.Mount("", shared, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	b := s.bundle("c", "")
	address := s.mustStart(b)
	if err := connect(t, address, "c"); err != nil { // it has done its first acts
		t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d/", s.server().Process.PID)
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	if its, err := os.Readlink(proc + "ns/mnt"); err != nil || its == ours {
		t.Errorf("it is in mount namespace %s as we are (%v)", its, err)
	}
	later := filepath.Join(shared, "later")
	if err := os.Mkdir(later, 0o700); err != nil {
		t.Fatal(err)
	}
	mount(later, 0)
	mounts, err := os.ReadFile(proc + "mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mounts), later) {
		t.Error("a later mount of the host did not arrive")
	}
	for _, line := range strings.Split(strings.TrimSpace(string(mounts)), "\n") {
		if strings.Contains(line, " shared:") {
			t.Errorf("a mount of its would come back: %s", line)
		}
	}
	if cwd, err := os.Readlink(proc + "cwd"); err != nil || cwd != b {
		t.Errorf("its directory is %s (%v)", cwd, err)
	}
	pid := s.server().Process.PID
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("its session is %d (%v)", sid, err)
	}
	for fd, want := range map[string]string{"0": "/dev/null", "1": "/dev/null"} {
		if got, err := os.Readlink(proc + "fd/" + fd); err != nil || got != want {
			t.Errorf("descriptor %s is %s (%v)", fd, got, err)
		}
	}
	s.delete(b)
}

func TestServerWithoutAStartEnds(t *testing.T) {
	s := newSite(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.command(s.bundle("c", ""), "")
	cmd.Args = cmd.Args[:len(cmd.Args)-1]
	cmd.ExtraFiles = []*os.File{r, r, r}
	_ = w.Close() // start died
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "started by start only") {
		t.Errorf("%v: %s", err, out)
	}
	_ = r.Close()
	s.clean()
}

func TestLog(t *testing.T) {
	s := newSite(t)
	b := s.bundle("c", "")
	path := filepath.Join(b, "log")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	r := open()
	address := s.mustStart(b)
	if err := connect(t, address, "c"); err != nil {
		t.Fatal(err)
	}
	pid := s.server().Process.PID
	// Nobody reads: neither a signal nor a full fifo may hurt it.
	_ = r.Close()
	for range 20 {
		if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if err := connect(t, address, "c"); err != nil {
			t.Fatalf("without a reader of its log: %v", err)
		}
	}
	r = open()
	defer r.Close()
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	n, err := r.Read(buf)
	if !strings.Contains(string(buf[:n]), "goroutine") || !strings.Contains(string(buf[:n]), Name) {
		t.Errorf("the log is %q (%v)", buf[:n], err)
	}
	s.delete(b)
}

func TestConfigErrorReachesTheUser(t *testing.T) {
	s := newSite(t)
	path := filepath.Join(s.dir, "hyper.toml")
	if err := os.WriteFile(path, []byte("nonsense = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := s.bundle("c", "")
	address := s.mustStart(b, "HYPER_CONFIG="+path)
	h := s.server()
	c := tasks(t, address)
	_, err := c.Create(t.Context(), &api.CreateTaskRequest{ID: "c", Bundle: b})
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("create: %v", err)
	}
	if _, err := c.Shutdown(t.Context(), &api.ShutdownRequest{ID: "c"}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		t.Errorf("shutdown: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := h.Wait(ctx); err != nil {
		t.Errorf("the server did not end: %v", err)
	}
	s.clean() // also without a delete
}

func TestInfo(t *testing.T) {
	s := newSite(t)
	out, err := exec.Command(s.binary, "-info").Output()
	if err != nil {
		t.Fatal(err)
	}
	var info types.RuntimeInfo
	if err := proto.Unmarshal(out, &info); err != nil || info.Name != Name || info.Version.GetVersion() == "" {
		t.Fatalf("info: %v, %v", &info, err)
	}
	var f features.Features
	if err := json.Unmarshal(info.Features.Value, &f); err != nil || f.Linux == nil || info.Features.TypeUrl != featuresType {
		t.Errorf("features: %s, %v", info.Features, err)
	}
	out, err = exec.Command(s.binary, "-v").Output()
	if err != nil || !strings.Contains(string(out), "Go version: go1.") {
		t.Errorf("-v: %s, %v", out, err)
	}
	for _, args := range [][]string{{"start"}, {"-nonsense"}, {"-id", "c", "-namespace", "ns", "dance"}} {
		if err := exec.Command(s.binary, args...).Run(); err == nil {
			t.Errorf("%q passed", args)
		}
	}
}

// sleeper is a process to be killed.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}
