package agent

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// setCPUs asks for processors and checks how many there are then, for the guest and for
// a container that runs.
func setCPUs(t *testing.T, g *testGuest, id string, count, want uint32) (why string) {
	t.Helper()
	r, err := g.api.SetCPUs(testCtx(t), &agentv1.SetCPUsRequest{Count: count})
	if err != nil || r.Count != want {
		t.Fatalf("SetCPUs(%d): %v, %v, want %d", count, r, err, want)
	}
	if exit, out := g.exec(t, id, "n", execSpec("sh", "-c", "nproc; grep -c ^processor /proc/cpuinfo")); exit.Status != 0 || out != fmt.Sprintf("%d\n%[1]d\n", want) {
		t.Errorf("SetCPUs(%d): the container has %q", count, out)
	}
	return r.Why
}

// testProcessors takes processors into use and out of use, while a container keeps all
// of them busy.
func testProcessors(t *testing.T, g *testGuest) {
	g.sleeper(t, "cpus", nil)
	busy := "for i in 1 2 3 4; do sh -c 'while :; do :; done' >/dev/null 2>&1 & done"
	if exit, out := g.exec(t, "cpus", "busy", execSpec("sh", "-c", busy)); exit.Status != 0 {
		t.Fatalf("%v %q", exit, out)
	}
	for _, count := range []uint32{1, 3, 4, 2, 2, 4, 1, 4, 1} {
		if why := setCPUs(t, g, "cpus", count, count); why != "" {
			t.Errorf("SetCPUs(%d): %s", count, why)
		}
	}
	if why := setCPUs(t, g, "cpus", 9, 4); !strings.Contains(why, "the machine has 4") {
		t.Errorf("more than there are: %q", why)
	}
	for _, count := range []uint32{0, maxCPUs + 1} {
		_, err := g.api.SetCPUs(testCtx(t), &agentv1.SetCPUsRequest{Count: count})
		wantCode(t, fmt.Sprintf("SetCPUs(%d)", count), err, codes.InvalidArgument)
	}
	g.delete(t, "cpus")
	if r, err := g.api.SetCPUs(testCtx(t), &agentv1.SetCPUsRequest{Count: 1}); err != nil || r.Count != 1 {
		t.Errorf("at the end: %v, %v", r, err)
	}
}

// testProcessorSets confines containers to processors that are there, in use or not.
func testProcessorSets(t *testing.T, g *testGuest) {
	set := func(cpus string) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: cpus} }
	}
	g.sleeper(t, "set", set("0-1,7"))
	look := func(when, want string) {
		t.Helper()
		if _, out := g.exec(t, "set", "r", execSpec("sh", "-c", "grep Cpus_allowed_list /proc/self/status; cat /sys/fs/cgroup/cpuset.cpus")); out != want {
			t.Errorf("%s: %q, want %q", when, out, want)
		}
	}
	use := func(count uint32) {
		t.Helper()
		if r, err := g.api.SetCPUs(testCtx(t), &agentv1.SetCPUsRequest{Count: count}); err != nil || r.Count != count {
			t.Fatalf("SetCPUs(%d): %v, %v", count, r, err)
		}
	}
	look("one in use", "Cpus_allowed_list:\t0\n0-1\n")
	use(4)
	look("four in use", "Cpus_allowed_list:\t0-1\n0-1\n")
	update := func(cpus string) error {
		_, err := g.api.UpdateContainer(testCtx(t), &agentv1.UpdateContainerRequest{ContainerId: "set", Resources: []byte(`{"cpu":{"cpus":"` + cpus + `"}}`)})
		return err
	}
	if err := update("1,3,64"); err != nil {
		t.Fatal(err)
	}
	look("another set", "Cpus_allowed_list:\t1,3\n1,3\n")
	use(3)
	look("three in use", "Cpus_allowed_list:\t1\n1,3\n")
	for _, bad := range []string{"4-9", "x", "1-0"} {
		wantCode(t, bad, update(bad), codes.InvalidArgument)
	}
	look("after refusals", "Cpus_allowed_list:\t1\n1,3\n")
	use(1)
	// None of its own is in use: it is on those that are.
	look("one in use again", "Cpus_allowed_list:\t0\n1,3\n")
	g.delete(t, "set")
}

// testHugePages has the guest's kernel enforce limits of huge pages.
func testHugePages(t *testing.T, g *testGuest) {
	g.sleeper(t, "huge", func(s *specs.Spec) {
		s.Linux.Resources.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}, {Pagesize: "1GB", Limit: 0}}
	})
	exit, out := g.exec(t, "huge", "r", execSpec("sh", "-c", "cd /sys/fs/cgroup; cat hugetlb.2MB.max hugetlb.2MB.rsvd.max hugetlb.1GB.max"))
	if exit.Status != 0 || out != "4194304\n4194304\n0\n" {
		t.Errorf("%v %q", exit, out)
	}
	_, err := g.api.UpdateContainer(testCtx(t), &agentv1.UpdateContainerRequest{ContainerId: "huge", Resources: []byte(`{"hugepageLimits":[{"pageSize":"2MB","limit":2097152}]}`)})
	if err != nil {
		t.Error(err)
	}
	if _, out := g.exec(t, "huge", "r", execSpec("cat", "/sys/fs/cgroup/hugetlb.2MB.max")); out != "2097152\n" {
		t.Errorf("after an update: %q", out)
	}
	g.delete(t, "huge")
}
