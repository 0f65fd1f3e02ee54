package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestExpand(t *testing.T) {
	for path, want := range map[string]string{
		"/default/c1":   "/default/c1",
		"k8s.io/x":      "/k8s.io/x",
		"a//b/":         "/a/b",
		"a.slice:cri:1": "/a.slice/cri-1.scope",
		"-.slice:cri:1": "/cri-1.scope",
		"kubepods-burstable-pod1.slice:cri-containerd:2": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-2.scope",
	} {
		if got, err := expand(path); got != want || err != nil {
			t.Errorf("%s: %s, %v; want %s", path, got, err, want)
		}
	}
	for _, path := range []string{"", "/", "../x", "/a/../../b", "a:b:c", ".slice:a:b", "a--b.slice:c:d", "x.slice:..:../../y"} {
		if got, err := expand(path); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %q, %v", path, got, err)
		}
	}
}

// host writes a /proc directory of a process on a made-up host.
func host(t *testing.T, mountinfo, cgroup string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"mountinfo": mountinfo, "cgroup": cgroup} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestHierarchies(t *testing.T) {
	unified := t.TempDir()
	controllers := filepath.Join(unified, "cgroup.controllers")
	second := fmt.Sprintf("30 23 0:28 / %s rw - cgroup2 cgroup2 rw\n", unified)
	first := "32 31 0:29 / /c/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
		"33 31 0:30 / /c/cpuset rw - cgroup cgroup rw,cpuset\n" +
		"34 31 0:31 / /c/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
		"35 31 0:31 /x /other rw - cgroup cgroup rw,xattr,name=systemd\n"
	own := "5:name=systemd:/s\n3:cpuset:/\n2:cpu,cpuacct:/a/b\n0::/u\n"
	for name, c := range map[string]struct {
		mounts      string
		controllers string
		want        []hierarchy
	}{
		"second": {second, "cpu memory", []hierarchy{{unified, "/u", false, true}}},
		"both": {first + second, "", []hierarchy{
			{"/c/cpu,cpuacct", "/a/b", false, false}, {"/c/cpuset", "/", true, false}, {"/c/systemd", "/s", false, false},
		}},
		"none": {"", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(controllers, []byte(c.controllers), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := findHierarchies(host(t, c.mounts, own))
			if fmt.Sprint(got) != fmt.Sprint(c.want) || (err == nil) != (c.want != nil) {
				t.Errorf("found %+v, %v", got, err)
			}
		})
	}
}

// joinerEnv makes this test's program a process that joins the group it names, says so, and
// removes it when its input ends. patienceEnv is how long it waits for others.
const (
	joinerEnv   = "HYPER_CGROUP_TEST_JOIN"
	patienceEnv = "HYPER_CGROUP_TEST_PATIENCE"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(joinerEnv); path != "" {
		os.Exit(join(path))
	}
	os.Exit(m.Run())
}

func join(path string) int {
	patience, err := time.ParseDuration(os.Getenv(patienceEnv))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	g, err := New(path)
	if err == nil {
		err = g.Join(ctx)
	}
	fmt.Println("joined", err)
	if err != nil {
		return 1
	}
	var b [1]byte
	os.Stdin.Read(b[:])
	if err := g.Remove(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// joiner is such a process.
type joiner struct {
	*exec.Cmd
	stdin io.Closer
	says  *bufio.Scanner
}

func startJoiner(t *testing.T, path string, patience time.Duration) *joiner {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), joinerEnv+"="+path, patienceEnv+"="+patience.String())
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return &joiner{cmd, stdin, bufio.NewScanner(stdout)}
}

// word is what it says of its joining, "<nil>" if that went well.
func (j *joiner) word() string {
	j.says.Scan()
	return strings.TrimPrefix(j.says.Text(), "joined ")
}

// end has it remove the group.
func (j *joiner) end() error {
	j.stdin.Close()
	return j.Wait()
}

// testGroup is a group of this host, which is not made yet.
func testGroup(t *testing.T) *Group {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make cgroups")
	}
	g, err := New(fmt.Sprintf("/hyper-test-%d/pod", os.Getpid()))
	if err != nil {
		t.Skipf("this host has no cgroups: %v", err)
	}
	t.Cleanup(func() {
		for _, h := range g.hierarchies {
			os.Remove(h.dir(g.path))
			os.Remove(filepath.Dir(h.dir(g.path)))
		}
	})
	return g
}

// checkIn says where the group has others than these in it.
func (g *Group) checkIn(t *testing.T, want ...int) {
	t.Helper()
	for _, h := range g.hierarchies {
		if pids, err := h.processes(g.path); err != nil || !slices.Equal(pids, want) {
			t.Errorf("in %s are %v, want %v (%v)", h.dir(g.path), pids, want, err)
		}
	}
}

func (g *Group) checkGone(t *testing.T) {
	t.Helper()
	for _, h := range g.hierarchies {
		if _, err := os.Stat(h.dir(g.path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left (%v)", h.dir(g.path), err)
		}
	}
}

func TestJoinAndLeave(t *testing.T) {
	g := testGroup(t)
	j := startJoiner(t, g.path, time.Second)
	if word := j.word(); word != "<nil>" {
		t.Fatal(word)
	}
	g.checkIn(t, j.Process.Pid)
	for _, h := range g.hierarchies {
		if h.unified {
			checkDelegated(t, h, g.path)
		}
	}
	if err := j.end(); err != nil {
		t.Fatal(err)
	}
	g.checkGone(t)
	if err := g.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestVacate empties a group, also when it has become another's.
func TestVacate(t *testing.T) {
	g := testGroup(t)
	if err := g.awaitClaim(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, h := range g.hierarchies {
		if err := h.make(g.path); err != nil {
			t.Fatal(err)
		}
	}
	putIn(t, g)
	if err := g.Vacate(); err != nil {
		t.Error(err)
	}
	g.checkIn(t)
	if err := g.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	another := startJoiner(t, g.path, time.Second)
	if word := another.word(); word != "<nil>" {
		t.Fatal(word)
	}
	if err := g.Vacate(); err != nil {
		t.Error(err)
	}
	g.checkIn(t, another.Process.Pid)
	if err := another.end(); err != nil {
		t.Error(err)
	}
}

// TestMoveOut moves out a process and its child, and not who is in the group with them.
func TestMoveOut(t *testing.T) {
	g := testGroup(t)
	for _, h := range g.hierarchies {
		if err := h.make(g.path); err != nil {
			t.Fatal(err)
		}
	}
	other := putIn(t, g)
	parent := exec.Command("sh", "-c", "sleep 100 & echo $!; wait")
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer parent.Wait()
	defer parent.Process.Kill()
	var child int
	if _, err := fmt.Fscan(stdout, &child); err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(child, unix.SIGKILL)
	if err := errors.Join(g.Add(parent.Process.Pid), g.Add(child)); err != nil {
		t.Fatal(err)
	}
	if err := g.MoveOut([]int{parent.Process.Pid}); err != nil {
		t.Error(err)
	}
	g.checkIn(t, other.Process.Pid)
}

// checkDelegated says what the hierarchy has to account for a pod and a group has not.
func checkDelegated(t *testing.T, h hierarchy, path string) {
	t.Helper()
	all := strings.Fields(content(t, filepath.Join(h.mount, "cgroup.controllers")))
	has := strings.Fields(content(t, filepath.Join(h.dir(path), "cgroup.controllers")))
	for _, controller := range []string{"cpu", "memory", "pids", "hugetlb"} {
		if !slices.Contains(all, controller) {
			continue
		}
		t.Run(controller, func(t *testing.T) {
			needDelegation(t, h, controller)
			if !slices.Contains(has, controller) {
				t.Errorf("the group has %q of %q: %s is missing", has, all, controller)
			}
		})
	}
}

// needDelegation skips a test in a container whose own group is at the hierarchy's root: a
// group of version 2 that has processes hands on nothing.
func needDelegation(t *testing.T, h hierarchy, controller string) {
	t.Helper()
	if err := set(filepath.Join(h.mount, "cgroup.subtree_control"), "+"+controller); err != nil {
		t.Skipf("groups of this host cannot have %s: %v", controller, err)
	}
}

// TestRemoveWaits has a group that is busy at first, as by a process that is ending.
func TestRemoveWaits(t *testing.T) {
	g := testGroup(t)
	removeBelow := func() {
		for _, h := range g.hierarchies {
			os.Remove(filepath.Join(h.dir(g.path), "below"))
		}
	}
	t.Cleanup(removeBelow)
	for _, h := range g.hierarchies {
		if err := os.MkdirAll(filepath.Join(h.dir(g.path), "below"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	time.AfterFunc(5*removeInterval, removeBelow)
	if err := g.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	g.checkGone(t)
}
