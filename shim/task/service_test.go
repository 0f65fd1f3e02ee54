package task

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/hyperhq/hyper/shim/stdio"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// fixture is a service whose guest is this machine.
type fixture struct {
	*Service
	t      *testing.T
	host   *host
	events *recorder
	dir    string
	down   chan struct{} // closed when the service asks for the shutdown
}

// newFixture makes a service with containers of these commands, by id.
func newFixture(t *testing.T, args map[string][]string) *fixture {
	f := &fixture{t: t, host: newHost(args), events: &recorder{}, dir: t.TempDir(), down: make(chan struct{})}
	streams := stdio.NewHost("test")
	streams.SetPatience(300 * time.Millisecond)
	f.Service = New(t.Context(), Options{
		ID:       "c",
		Open:     func(context.Context, string) (Sandbox, error) { return f.host, nil },
		Events:   f.events,
		Stdio:    streams,
		Shutdown: func() { close(f.down) },
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := f.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		streams.Wait()
	})
	return f
}

// fifo makes a fifo and returns its path.
func (f *fixture) fifo(name string) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// read returns what comes out of a fifo until its end.
func (f *fixture) read(path string) <-chan []byte {
	out := make(chan []byte, 1)
	go func() {
		data, _ := os.ReadFile(path)
		out <- data
	}()
	return out
}

func (f *fixture) create(id string, c stdio.Config) {
	f.t.Helper()
	_, err := f.Create(f.t.Context(), &api.CreateTaskRequest{
		ID: id, Bundle: f.dir, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr, Terminal: c.Terminal,
	})
	if err != nil {
		f.t.Fatalf("create: %v", err)
	}
}

func (f *fixture) start(id, execID string) {
	f.t.Helper()
	if _, err := f.Start(f.t.Context(), id, execID); err != nil {
		f.t.Fatalf("start %s %s: %v", id, execID, err)
	}
}

func (f *fixture) exec(id, execID string, c stdio.Config, args ...string) error {
	f.t.Helper()
	spec, err := json.Marshal(&specs.Process{Args: args})
	if err != nil {
		f.t.Fatal(err)
	}
	return f.Exec(f.t.Context(), &api.ExecProcessRequest{
		ID: id, ExecID: execID, Spec: &anypb.Any{Value: spec},
		Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr, Terminal: c.Terminal,
	})
}

func (f *fixture) wait(id, execID string, want uint32) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	e, err := f.Wait(ctx, id, execID)
	if err != nil {
		f.t.Fatalf("wait for %s %s: %v", id, execID, err)
	}
	if e.Status != want {
		f.t.Errorf("%s %s exited %d, want %d", id, execID, e.Status, want)
	}
}

func (f *fixture) delete(id, execID string) {
	f.t.Helper()
	if _, _, err := f.Delete(f.t.Context(), id, execID); err != nil {
		f.t.Fatalf("delete %s %s: %v", id, execID, err)
	}
}

func (f *fixture) kill(id, execID string) {
	f.t.Helper()
	if err := f.Kill(f.t.Context(), id, execID, uint32(unix.SIGKILL), false); err != nil {
		f.t.Fatalf("kill %s %s: %v", id, execID, err)
	}
}

func (f *fixture) state(id, execID string) State {
	f.t.Helper()
	st, err := f.State(id, execID)
	if err != nil {
		f.t.Fatalf("state of %s %s: %v", id, execID, err)
	}
	return st.State
}

func TestLifeOfATask(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"sh", "-c", "echo out; echo err >&2; exit 3"}})
	c := stdio.Config{Stdout: f.fifo("out"), Stderr: f.fifo("err")}
	stdout, stderr := f.read(c.Stdout), f.read(c.Stderr)
	f.create("c", c)
	if s := f.state("c", ""); s != Created {
		t.Errorf("state is %d before the start", s)
	}
	f.start("c", "")
	f.wait("c", "", 3)
	if s := f.state("c", ""); s != Stopped {
		t.Errorf("state is %d after the exit", s)
	}
	if out := waitUntil(t, "stdout", stdout); string(out) != "out\n" {
		t.Errorf("stdout is %q", out)
	}
	if out := waitUntil(t, "stderr", stderr); string(out) != "err\n" {
		t.Errorf("stderr is %q", out)
	}
	f.delete("c", "")
	if _, err := f.State("c", ""); !errdefs.IsNotFound(err) {
		t.Errorf("state of a deleted task: %v", err)
	}
	f.events.want(t, "create c", "start c", "exit c/c=3", "delete c=3")
}

func TestStartIsPublishedBeforeExit(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"sleep", "60"}})
	f.create("c", stdio.Config{})
	f.start("c", "")
	want := []string{"create c", "start c"}
	for i := range 30 {
		id := "e" + string(rune('A'+i))
		if err := f.exec("c", id, stdio.Config{}, "true"); err != nil {
			t.Fatal(err)
		}
		f.start("c", id)
		f.wait("c", id, 0)
		f.delete("c", id)
		want = append(want, "exec-added c/"+id, "exec-started c/"+id, "exit c/"+id+"=0")
	}
	f.events.want(t, want...)
}

func TestInitsExitIsTheLast(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"sleep", "60"}})
	f.create("c", stdio.Config{})
	f.start("c", "")
	for _, id := range []string{"e1", "e2", "e3"} {
		if err := f.exec("c", id, stdio.Config{}, "sleep", "60"); err != nil {
			t.Fatal(err)
		}
		f.start("c", id)
	}
	if err := f.exec("c", "unstarted", stdio.Config{}, "true"); err != nil {
		t.Fatal(err)
	}
	f.kill("c", "")
	f.wait("c", "", killed)
	f.wait("c", "unstarted", killed) // its Wait must not hang either
	got := f.events.all()
	if last := got[len(got)-1]; last != "exit c/c=137" {
		t.Errorf("the last event is %q", last)
	}
	if n := len(got); n != 2+3*2+1+4 {
		t.Errorf("%d events: %q", n, got)
	}
	if err := f.exec("c", "late", stdio.Config{}, "true"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec in a stopped task: %v", err)
	}
	if _, err := f.Start(t.Context(), "c", "unstarted"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start of an exec in a stopped task: %v", err)
	}
	f.delete("c", "")
}

func TestRefusals(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"sleep", "60"}, "d": {"true"}})
	ctx := t.Context()
	f.create("c", stdio.Config{})
	is := func(what string, kind func(error) bool, err error) {
		t.Helper()
		if !kind(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := f.Create(ctx, &api.CreateTaskRequest{ID: "c", Bundle: f.dir})
	is("create a task twice", errdefs.IsAlreadyExists, err)
	_, err = f.Create(ctx, &api.CreateTaskRequest{ID: "missing", Bundle: f.dir})
	is("create a task without a bundle", errdefs.IsNotFound, err)
	_, err = f.Create(ctx, &api.CreateTaskRequest{ID: "d", Bundle: f.dir, Checkpoint: "/x"})
	is("create from a checkpoint", errdefs.IsNotImplemented, err)
	_, err = f.Create(ctx, &api.CreateTaskRequest{ID: "d", Bundle: f.dir, Stdout: "http://x/y"})
	is("unknown kind of output", errdefs.IsInvalidArgument, err)
	_, err = f.Create(ctx, &api.CreateTaskRequest{ID: "d", Bundle: f.dir, Stdin: filepath.Join(f.dir, "none")})
	is("missing stdin", errdefs.IsNotFound, nativeNotExist(err))
	f.start("c", "")
	_, err = f.Start(ctx, "c", "")
	is("start twice", errdefs.IsFailedPrecondition, err)
	_, _, err = f.Delete(ctx, "c", "")
	is("delete a running task", errdefs.IsFailedPrecondition, err)
	is("exec without a process", errdefs.IsInvalidArgument, f.Exec(ctx, &api.ExecProcessRequest{ID: "c", ExecID: "e"}))
	if err := f.exec("c", "e", stdio.Config{}, "true"); err != nil {
		t.Fatal(err)
	}
	is("exec id twice", errdefs.IsAlreadyExists, f.exec("c", "e", stdio.Config{}, "true"))
	is("kill an unstarted exec", errdefs.IsFailedPrecondition, f.Kill(ctx, "c", "e", 9, false))
	is("resize what is no terminal", errdefs.IsFailedPrecondition, f.Resize(ctx, "c", "", 80, 24))
	is("signal 65", errdefs.IsInvalidArgument, f.Kill(ctx, "c", "", 65, false))
	is("kill an unknown exec", errdefs.IsNotFound, f.Kill(ctx, "c", "x", 9, false))
	is("pause an unknown task", errdefs.IsNotFound, f.Pause(ctx, "x"))
	is("update with nonsense", errdefs.IsInvalidArgument, f.Update(ctx, "c", []byte("nonsense")))
	f.delete("c", "e")
	f.kill("c", "")
	f.wait("c", "", killed)
	is("kill a stopped task", errdefs.IsNotFound, f.Kill(ctx, "c", "", 9, true))
	f.delete("c", "")
	_, _, err = f.Delete(ctx, "c", "")
	is("delete a deleted task", errdefs.IsNotFound, err)
	f.events.want(t, "create c", "start c", "exec-added c/e", "exit c/c=137", "delete c=137")
}

// nativeNotExist maps the file system's error to the kind that a client sees.
func nativeNotExist(err error) error {
	if err != nil && strings.Contains(err.Error(), unix.ENOENT.Error()) {
		return errdefs.ErrNotFound
	}
	return err
}

func TestStdinThroughCat(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"cat"}})
	c := stdio.Config{Stdin: f.fifo("in"), Stdout: f.fifo("out")}
	sum := sha256.New()
	read := make(chan error, 1)
	go func() {
		r, err := os.Open(c.Stdout)
		if err == nil {
			_, err = io.Copy(sum, r)
			_ = r.Close()
		}
		read <- err
	}()
	f.create("c", c)
	in := make([]byte, 20<<20)
	if _, err := rand.Read(in); err != nil {
		t.Fatal(err)
	}
	f.start("c", "")
	if err := os.WriteFile(c.Stdin, in, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.CloseStdin("c", ""); err != nil {
			t.Fatalf("CloseIO: %v", err)
		}
	}
	f.wait("c", "", 0)
	if err := waitUntil(t, "stdout", read); err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(in)
	if !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Error("what came out is not what went in")
	}
	f.delete("c", "")
}

func TestCloseIOBeforeStart(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"cat"}})
	f.create("c", stdio.Config{Stdin: f.fifo("in")})
	if err := f.CloseStdin("c", ""); err != nil {
		t.Fatal(err)
	}
	f.start("c", "")
	f.wait("c", "", 0)
	f.delete("c", "")
}

func TestSlowReaderStallsOnlyItself(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"sleep", "60"}})
	f.create("c", stdio.Config{})
	f.start("c", "")
	slow := stdio.Config{Stdout: f.fifo("slow")}
	r, err := os.OpenFile(slow.Stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const size = 8 << 20
	if err := f.exec("c", "slow", slow, "head", "-c", "8388608", "/dev/zero"); err != nil {
		t.Fatal(err)
	}
	f.start("c", "slow")
	quick := stdio.Config{Stdout: f.fifo("quick")}
	out := f.read(quick.Stdout)
	if err := f.exec("c", "quick", quick, "head", "-c", "8388608", "/dev/zero"); err != nil {
		t.Fatal(err)
	}
	f.start("c", "quick")
	f.wait("c", "quick", 0)
	if n := len(waitUntil(t, "quick output", out)); n != size {
		t.Errorf("the quick one wrote %d bytes", n)
	}
	if s := f.state("c", "slow"); s != Running {
		t.Errorf("the slow one is in state %d", s)
	}
	if n, err := io.Copy(io.Discard, r); n != size || err != nil {
		t.Errorf("the slow one wrote %d bytes (%v)", n, err)
	}
	f.wait("c", "slow", 0)
}

func TestMachineDies(t *testing.T) {
	f := newFixture(t, map[string][]string{
		"run": {"sleep", "60"}, "new": {"true"}, "stuck": {"cat", "/dev/zero"},
	})
	stuck := stdio.Config{Stdout: f.fifo("stuck")}
	r, err := os.OpenFile(stuck.Stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f.create("run", stdio.Config{})
	f.create("new", stdio.Config{})
	f.create("stuck", stuck)
	f.start("run", "")
	f.start("stuck", "")
	if err := f.exec("run", "e", stdio.Config{}, "sleep", "60"); err != nil {
		t.Fatal(err)
	}
	f.start("run", "e")
	died := time.Now()
	if err := f.host.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"run", "new", "stuck"} {
		f.wait(id, "", killed)
	}
	if d := time.Since(died); d > time.Second {
		t.Errorf("the exits took %s", d)
	}
	exits := 0
	for _, e := range f.events.all() {
		if strings.HasPrefix(e, "exit ") {
			exits++
		}
	}
	if exits != 4 {
		t.Errorf("%d exits: %q", exits, f.events.all())
	}
	for _, id := range []string{"run", "new", "stuck"} {
		f.delete(id, "")
	}
}

// TestKilledWithoutAReader has a guest that, as the agent does, tells an exit
// only when all output is taken.
func TestKilledWithoutAReader(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"sleep", "60"}})
	f.host.holds = true
	f.create("c", stdio.Config{})
	f.start("c", "")
	for id, args := range map[string][]string{
		"killed":    {"cat", "/dev/zero"},
		"by itself": {"head", "-c", "120000", "/dev/zero"},
	} {
		if err := f.exec("c", id, stdio.Config{Stdout: f.fifo(id)}, args...); err != nil {
			t.Fatal(err)
		}
		r, err := os.OpenFile(filepath.Join(f.dir, id), os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		f.start("c", id)
	}
	f.kill("c", "killed")
	f.wait("c", "killed", killed)
	// Dead in the guest, but held back: a kill that finds it gone helps too.
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := f.Wait(ctx, "c", "by itself"); err == nil {
		t.Error("its exit was told though output is left that its reader may want")
	}
	if err := f.Kill(t.Context(), "c", "by itself", uint32(unix.SIGKILL), false); !errdefs.IsNotFound(err) {
		t.Errorf("kill: %v", err)
	}
	f.wait("c", "by itself", 0)
}

// TestAKillIsAnsweredBeforeTheExitIsTold: containerd, once it hears of the exit,
// may end the shim, and the one who killed would find the connection closed.
func TestAKillIsAnsweredBeforeTheExitIsTold(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"sleep", "60"}})
	f.host.answers = make(chan struct{})
	f.create("c", stdio.Config{})
	f.start("c", "")
	answered := make(chan error, 1)
	go func() { answered <- f.Kill(t.Context(), "c", "", uint32(unix.SIGKILL), false) }()
	c, err := f.container("c")
	if err != nil {
		t.Fatal(err)
	}
	<-c.init.guest.Done()
	ctx, cancel := context.WithTimeout(t.Context(), signalsLate/4)
	defer cancel()
	if e, err := f.Wait(ctx, "c", ""); err == nil {
		t.Errorf("the exit with %d was told before the kill was answered", e.Status)
	}
	close(f.host.answers)
	if err := <-answered; err != nil {
		t.Errorf("the kill: %v", err)
	}
	f.wait("c", "", killed)
}

func TestDeleteOfACreatedTask(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"true"}})
	f.create("c", stdio.Config{Stdin: f.fifo("in"), Stdout: f.fifo("out")})
	f.delete("c", "")
	f.events.want(t, "create c", "exit c/c=137", "delete c=137")
}

func TestPauseAndResume(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"sleep", "60"}})
	f.create("c", stdio.Config{})
	if err := f.Pause(t.Context(), "c"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("pause of a created task: %v", err)
	}
	f.start("c", "")
	if err := f.Pause(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if s := f.state("c", ""); s != Paused {
		t.Errorf("state is %d", s)
	}
	if err := f.Resume(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if s := f.state("c", ""); s != Running {
		t.Errorf("state is %d", s)
	}
	f.events.want(t, "create c", "start c", "paused c", "resumed c")
}

func TestOutOfMemoryIsPublished(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"true"}})
	f.create("c", stdio.Config{})
	f.host.ooms <- "nobody's"
	f.host.ooms <- "c"
	f.host.ooms <- "nobody's" // taken once the one before has been seen to
	f.host.ooms <- "nobody's"
	f.events.want(t, "create c", "oom c")
}

func TestRemove(t *testing.T) {
	t.Run("running, its output stuck", func(t *testing.T) {
		f := newFixture(t, map[string][]string{"c": {"cat", "/dev/zero"}})
		f.create("c", stdio.Config{Stdout: f.fifo("out")})
		f.start("c", "")
		begun := time.Now()
		e, _, err := f.Remove(t.Context(), "c")
		if err != nil || e.Status != killed {
			t.Errorf("remove: %v, %v", e, err)
		}
		if d := time.Since(begun); d > time.Second {
			t.Errorf("it took %s", d)
		}
		f.events.want(t, "create c", "start c", "exit c/c=137", "delete c=137")
	})
	t.Run("being made", func(t *testing.T) {
		f := newFixture(t, map[string][]string{"c": {"true"}})
		f.host.block = make(chan struct{})
		made := make(chan error, 1)
		reserved := make(chan struct{})
		f.o.Open = func(context.Context, string) (Sandbox, error) { close(reserved); return f.host, nil }
		go func() {
			_, err := f.Create(context.Background(), &api.CreateTaskRequest{ID: "c", Bundle: f.dir})
			made <- err
		}()
		waitUntil(t, "creation", reserved)
		f.Shutdown("c")
		select {
		case <-f.down:
			t.Fatal("it shut down while a container was being made")
		default:
		}
		if _, _, err := f.Remove(t.Context(), "c"); !errdefs.IsNotFound(err) {
			t.Errorf("remove: %v", err)
		}
		if err := waitUntil(t, "create", made); err == nil {
			t.Error("the creation went on")
		}
		f.Shutdown("c")
		waitUntil(t, "shutdown", f.down)
		f.events.want(t)
	})
}

// TestATaskWithoutProcessesIsStopped asks for the processes of one whose guest has none.
func TestATaskWithoutProcessesIsStopped(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"sleep", "1000"}})
	f.host.empty = true
	f.create("c", stdio.Config{})
	f.start("c", "")
	ps, err := f.Pids(t.Context(), "c")
	if err != nil || len(ps) != 1 || ps[0].PID != f.PID("c") {
		t.Errorf("while its end is not told: %v, %v", ps, err)
	}
	f.kill("c", "")
	f.wait("c", "", killed)
	if ps, err := f.Pids(t.Context(), "c"); err != nil || len(ps) != 0 {
		t.Errorf("after that: %v, %v", ps, err)
	}
}

// TestASlowRemovalSparesOthers removes a task whose guest does not answer in time.
func TestASlowRemovalSparesOthers(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"sleep", "1000"}, "d": {"sleep", "1000"}})
	f.host.answers = make(chan struct{})
	f.create("c", stdio.Config{})
	f.start("c", "")
	if _, _, err := f.RemoveAmong(t.Context(), "c"); !errdefs.IsUnavailable(err) {
		t.Errorf("of a task that is alone: %v", err)
	}
	f.create("d", stdio.Config{})
	f.start("d", "")
	if _, _, err := f.RemoveAmong(t.Context(), "d"); !errdefs.IsAborted(err) {
		t.Errorf("of one that has company: %v", err)
	}
	select {
	case <-f.down:
		t.Fatal("it shut down while tasks lived")
	default:
	}
	close(f.host.answers)
	waitUntil(t, "the end, when both are removed", f.down)
	for _, id := range []string{"c", "d"} {
		if _, err := f.State(id, ""); !errdefs.IsNotFound(err) {
			t.Errorf("%s is left: %v", id, err)
		}
	}
}

func TestShutdown(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"true"}, "d": {"true"}})
	isDown := func() bool {
		select {
		case <-f.down:
			return true
		default:
			return false
		}
	}
	if f.Shutdown("before us"); isDown() {
		t.Fatal("ended for a container of another server")
	}
	f.create("d", stdio.Config{})
	f.create("c", stdio.Config{})
	f.delete("c", "")
	if f.Shutdown("c"); isDown() {
		t.Fatal("ended while a container lives")
	}
	f.delete("d", "")
	if f.Shutdown("d"); !isDown() {
		t.Fatal("did not end")
	}
	_, err := f.Create(t.Context(), &api.CreateTaskRequest{ID: "d", Bundle: f.dir})
	if !errdefs.IsUnavailable(err) {
		t.Errorf("create after the end: %v", err)
	}
	f.Shutdown("d") // again
}

func TestHold(t *testing.T) {
	f := newFixture(t, map[string][]string{"c": {"true"}})
	if err := f.Hold(); err != nil {
		t.Fatal(err)
	}
	f.create("c", stdio.Config{})
	f.delete("c", "")
	f.Shutdown("c")
	select {
	case <-f.down:
		t.Error("it ended with its last container")
	default:
	}
	other := newFixture(t, nil)
	other.Shutdown("c")
	if err := other.Hold(); !errdefs.IsUnavailable(err) {
		t.Errorf("hold after the end: %v", err)
	}
}
