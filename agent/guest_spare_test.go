package agent

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/agent/reexec"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// TestGuestSpare runs containers whose init is a spare, which must be as all others.
func TestGuestSpare(t *testing.T) {
	tests := slices.Concat([]guestTest{
		{"taken by the first", testSpareIsTaken},
		{"left by one that joins a namespace", testSpareIsLeft},
		{"prepared", testSparePrepared},
		{"way for user namespaces", testWayForUsers},
	}, containerTests(), []guestTest{
		{"many at once", testSpareAmongMany},
	})
	inEachGuest(t, func(t *testing.T, g *testGuest) {
		g.probe = true
		for _, c := range tests {
			t.Run(c.name, func(t *testing.T) {
				g.reconnect(t)
				c.test(t, g)
			})
		}
	})
}

// leaveToLibcontainer asks for what is so anyway, which the usher does not know.
func leaveToLibcontainer(spec *specs.Spec) {
	spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux}
}

// lookingForSpare is a container's configuration that prints the socket of a spare
// that waits, and what tells a spare from an ordinary init.
func lookingForSpare(id string) *specs.Spec {
	spec := testSpec(id, "sh", "-c", "ls /spare; cat /proc/self/oom_score_adj /proc/self/timerslack_ns /proc/1/cgroup; tr '\\0' ' ' </proc/1/environ; ls /proc/1/fd; cat /proc/1/comm")
	score := 123
	spec.Process.OOMScoreAdj = &score
	leaveToLibcontainer(spec)
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/spare", Type: "bind", Source: filepath.Dir(reexec.SpareSocket), Options: []string{"rbind", "ro"}})
	return spec
}

func testSpareIsTaken(t *testing.T, g *testGuest) {
	first, firstOut, _ := g.run(t, "first", lookingForSpare("first"))
	second, secondOut, _ := g.run(t, "second", lookingForSpare("second"))
	if first.GetStatus() != 0 || second.GetStatus() != 0 {
		t.Fatalf("exited with %d and %d: %s%s", first.GetStatus(), second.GetStatus(), firstOut, secondOut)
	}
	if strings.Contains(firstOut, "socket") {
		t.Errorf("the first container left the spare init:\n%s", firstOut)
	}
	if !strings.Contains(firstOut, "\n50000\n") {
		t.Errorf("the container of a spare init is not woken as exactly as others:\n%s", firstOut)
	}
	if firstOut != secondOut {
		t.Errorf("the container of a spare init sees\n%sand one of an ordinary init\n%s", firstOut, secondOut)
	}
}

func testSpareIsLeft(t *testing.T, g *testGuest) {
	joins := lookingForSpare("joins")
	for i := range joins.Linux.Namespaces {
		if joins.Linux.Namespaces[i].Type == specs.IPCNamespace {
			joins.Linux.Namespaces[i].Path = "/proc/1/ns/ipc"
		}
	}
	exit, out, _ := g.run(t, "joins", joins)
	if exit.GetStatus() != 0 || !strings.Contains(out, "socket") {
		t.Errorf("a container that joins a namespace exited with %d, and was not to take the spare init:\n%s", exit.GetStatus(), out)
	}
	exit, out, _ = g.run(t, "takes", lookingForSpare("takes"))
	if exit.GetStatus() != 0 || strings.Contains(out, "socket") {
		t.Errorf("the next exited with %d, and was to take the spare init:\n%s", exit.GetStatus(), out)
	}
}

// testSparePrepared has a guest that has run containers prepare for the next.
func testSparePrepared(t *testing.T, g *testGuest) {
	if exit, out, _ := g.run(t, "before", lookingForSpare("before")); exit.GetStatus() != 0 || strings.Contains(out, "socket") {
		t.Fatalf("a container before exited with %d, and was to take the spare init:\n%s", exit.GetStatus(), out)
	}
	for range 2 { // the second has nothing to do
		if _, err := g.api.Prepare(testCtx(t), &agentv1.PrepareRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	joins := lookingForSpare("waits")
	for i := range joins.Linux.Namespaces {
		if joins.Linux.Namespaces[i].Type == specs.IPCNamespace {
			joins.Linux.Namespaces[i].Path = "/proc/1/ns/ipc"
		}
	}
	if exit, out, _ := g.run(t, "waits", joins); exit.GetStatus() != 0 || !strings.Contains(out, "socket") {
		t.Errorf("no spare init waits (%d):\n%s", exit.GetStatus(), out)
	}
	if exit, out, _ := g.run(t, "after", lookingForSpare("after")); exit.GetStatus() != 0 || strings.Contains(out, "socket") {
		t.Errorf("the next exited with %d, and was to take the spare init:\n%s", exit.GetStatus(), out)
	}
}

// testWayForUsers: what the guest is prepared with does not keep the root of a user
// namespace from its root file system, which is in the guest's directory.
func testWayForUsers(t *testing.T, g *testGuest) {
	spec := testSpec("way", "stat", "-c", "%a", "/run/hyper")
	spec.Mounts = append(spec.Mounts[:len(spec.Mounts)-1], specs.Mount{Destination: "/run", Type: "bind", Source: "/run", Options: []string{"rbind", "ro"}})
	if exit, out, errs := g.run(t, "way", spec); exit.GetStatus() != 0 || out != "755\n" {
		t.Errorf("%d %q %s", exit.GetStatus(), out, errs)
	}
}

func testSpareAmongMany(t *testing.T, g *testGuest) {
	const count = 6
	outs := make(chan string, count)
	for i := range count {
		go func() {
			id := "many" + string(rune('a'+i))
			spec := testSpec(id, "hostname")
			leaveToLibcontainer(spec)
			exit, out, _ := g.run(t, id, spec)
			if exit.GetStatus() != 0 || out != "ctr-"+id+"\n" {
				t.Errorf("%s exited with %d: %q", id, exit.GetStatus(), out)
			}
			outs <- out
		}()
	}
	for range count {
		<-outs
	}
}
