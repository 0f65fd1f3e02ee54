package agent

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// testSharedNamespaces has containers of a pod share the guest's own namespaces,
// whose names and settings are not theirs to set.
func testSharedNamespaces(t *testing.T, g *testGuest) {
	script := "cd /proc/self/ns; readlink net; readlink ipc; readlink uts; hostname"
	_, one, errs := g.run(t, "share", podSpec("share", "sh", "-c", script))
	_, two, _ := g.run(t, "share", podSpec("share", "sh", "-c", script))
	if one != two || !strings.HasPrefix(one, "net:[") || !strings.HasSuffix(one, "\nguest\n") {
		t.Errorf("%q, %q %q", one, two, errs)
	}
	spec := podSpec("share", "true")
	spec.Domainname = "example"
	if exit, _, errs := g.run(t, "share", spec); exit.Status != 0 {
		t.Errorf("%v %q", exit, errs)
	}
	for name, kind := range map[string]string{"net.ipv4.ip_forward": "network", "kernel.shmmax": "ipc"} {
		spec := podSpec("share", "true")
		spec.Linux.Sysctl = map[string]string{name: "1"}
		err := g.create(t, "share", spec, &stdioStreams{want: &agentv1.Streams{}})
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), kind) {
			t.Errorf("%s of a shared namespace: %v", name, err)
		}
	}
}

func testSharedMemory(t *testing.T, g *testGuest) {
	configure := func(size uint64) {
		t.Helper()
		if _, err := g.api.Configure(testCtx(t), &agentv1.ConfigureRequest{ShmSize: size}); err != nil {
			t.Fatal(err)
		}
	}
	run := func(script string) string {
		t.Helper()
		spec := podSpec("shm", "sh", "-c", script)
		for i := range spec.Mounts {
			if spec.Mounts[i].Destination == "/dev/shm" {
				spec.Mounts[i] = specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shmDir, Options: []string{"rbind"}}
			}
		}
		exit, out, errs := g.run(t, "shm", spec)
		if exit.Status != 0 {
			t.Fatalf("%s: %v %q %q", script, exit, out, errs)
		}
		return out
	}
	configure(1 << 20)
	out := run("echo shared >/dev/shm/word; df -k /dev/shm | tail -1 | awk '{print $2}'; stat -c %a /dev/shm; grep ' /dev/shm ' /proc/mounts")
	if !strings.HasPrefix(out, "1024\n1777\n") || !strings.Contains(out, "nosuid,nodev,noexec") {
		t.Errorf("got %q", out)
	}
	configure(3 << 20)
	configure(0) // as it is
	if out := run("cat /dev/shm/word; df -k /dev/shm | tail -1 | awk '{print $2}'; rm /dev/shm/word"); out != "shared\n3072\n" {
		t.Errorf("after it has grown: %q", out)
	}
}

// inPIDsOf has a container join the PID namespace of another.
func inPIDsOf(owner string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == specs.PIDNamespace {
				s.Linux.Namespaces[i].Path = ofContainer + owner
			}
		}
		s.Process.Args = []string{"sh", "-c", "sleep 998 & sleep 999 & wait"}
	}
}

func testPIDsOfContainer(t *testing.T, g *testGuest) {
	ctx := testCtx(t)
	g.sleeper(t, "owner", nil)
	g.sleeper(t, "one", inPIDsOf("owner"))
	// A member's namespace is the owner's.
	g.sleeper(t, "two", inPIDsOf("one"))
	// Their shells may not have come to run both of theirs yet.
	const count = `for i in $(seq 100); do n=$(ps | grep -c 'sleep 99[89]'); [ $n -ge 6 ] && break; sleep 0.1; done; echo $n; echo pid $$`
	if exit, out := g.exec(t, "two", "e", execSpec("sh", "-c", count)); exit.Status != 0 || strings.Contains(out, "pid 1\n") || !strings.HasPrefix(out, "6\n") {
		t.Errorf("%d %q", exit.Status, out)
	}
	none := &stdioStreams{want: &agentv1.Streams{}}
	if err := g.addExec(t, "two", "long", execSpec("sleep", "1000"), none); err != nil {
		t.Fatal(err)
	}
	if _, err := g.api.StartProcess(ctx, &agentv1.ProcessRef{ContainerId: "two", ExecId: "long"}); err != nil {
		t.Fatal(err)
	}
	// A member's end is its own, the owner's is everybody's.
	g.delete(t, "one")
	if _, err := g.api.SignalProcess(ctx, &agentv1.SignalProcessRequest{ContainerId: "owner", Signal: 9}); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []*agentv1.ProcessRef{{ContainerId: "owner"}, {ContainerId: "two"}, {ContainerId: "two", ExecId: "long"}} {
		if exit, err := g.api.WaitProcess(ctx, ref); err != nil || exit.Status != 137 {
			t.Errorf("%v: %v %v", ref, exit, err)
		}
	}
	join := func(owner string, kind specs.LinuxNamespaceType) error {
		spec := testSpec("late", "true")
		i := slices.IndexFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
		spec.Linux.Namespaces[i].Path = ofContainer + owner
		return g.create(t, "late", spec, none)
	}
	wantCode(t, "the PIDs of a dead container", join("owner", "pid"), codes.FailedPrecondition)
	wantCode(t, "the PIDs of none", join("nobody", "pid"), codes.NotFound)
	wantCode(t, "the PIDs of ../x", join("../x", "pid"), codes.InvalidArgument)
	wantCode(t, "the IPC namespace of a container", join("two", "ipc"), codes.InvalidArgument)
}
