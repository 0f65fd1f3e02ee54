package agent

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// BenchmarkGuest measures what the agent takes of a container's life, in a real
// guest, as the host sees it: create, start, wait and delete of a container that
// ends at once, and an exec. The first round is told apart: it runs on cold caches.
func BenchmarkGuest(b *testing.B) {
	list := kernels(b)
	agent := buildAgent(b)
	for _, dir := range list {
		b.Run(filepath.Base(dir), func(b *testing.B) {
			g := startGuest(b, dir, agent)
			var first, rest [5][]time.Duration
			for i := 0; b.Loop(); i++ {
				laps := g.lap(b, fmt.Sprintf("b%d", i))
				into := &rest
				if i == 0 {
					into = &first
				}
				for j, d := range laps {
					into[j] = append(into[j], d)
				}
			}
			for j, name := range []string{"create", "start+wait", "delete", "run", "exec"} {
				b.ReportMetric(ms(median(first[j])), "first-"+name+"-ms")
				b.ReportMetric(ms(median(rest[j])), name+"-ms")
			}
		})
	}
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

func median(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[len(d)/2]
}

// lap runs one container and one exec, and returns how long each step took.
func (g *testGuest) lap(b *testing.B, id string) (laps [5]time.Duration) {
	ctx := b.Context()
	data, err := json.Marshal(testSpec(id, "true"))
	if err != nil {
		b.Fatal(err)
	}
	try := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	ref := &agentv1.ProcessRef{ContainerId: id}
	s := g.open(b, "oe")
	t0 := time.Now()
	_, err = g.api.CreateContainer(ctx, &agentv1.CreateContainerRequest{ContainerId: id, Spec: data, Streams: s.want})
	try(err)
	t1 := time.Now()
	_, err = g.api.StartProcess(ctx, ref)
	try(err)
	_, err = g.api.WaitProcess(ctx, ref)
	try(err)
	t2 := time.Now()
	_, err = g.api.DeleteProcess(ctx, ref)
	try(err)
	t3 := time.Now()

	host := id + "x"
	data, _ = json.Marshal(testSpec(host, "sleep", "1000"))
	_, err = g.api.CreateContainer(ctx, &agentv1.CreateContainerRequest{ContainerId: host, Spec: data})
	try(err)
	_, err = g.api.StartProcess(ctx, &agentv1.ProcessRef{ContainerId: host})
	try(err)
	s = g.open(b, "oe")
	process, _ := json.Marshal(execSpec("true"))
	exec := &agentv1.ProcessRef{ContainerId: host, ExecId: "e"}
	t4 := time.Now()
	_, err = g.api.CreateProcess(ctx, &agentv1.CreateProcessRequest{ContainerId: host, ExecId: "e", Process: process, Streams: s.want})
	try(err)
	_, err = g.api.StartProcess(ctx, exec)
	try(err)
	_, err = g.api.WaitProcess(ctx, exec)
	try(err)
	t5 := time.Now()
	_, err = g.api.DeleteProcess(ctx, &agentv1.ProcessRef{ContainerId: host})
	try(err)
	return [5]time.Duration{t1.Sub(t0), t2.Sub(t1), t3.Sub(t2), t2.Sub(t0), t5.Sub(t4)}
}

// BenchmarkGuestOutput measures how fast output comes from a container.
func BenchmarkGuestOutput(b *testing.B) {
	const size = 64 << 20
	list := kernels(b)
	g := startGuest(b, list[0], buildAgent(b))
	b.SetBytes(size)
	for i := 0; b.Loop(); i++ {
		if _, out, _ := g.run(b, fmt.Sprintf("o%d", i), testSpec("o", "dd", "if=/dev/zero", "bs=64k", fmt.Sprint("count=", size>>16))); len(out) != size {
			b.Fatalf("%d bytes came", len(out))
		}
	}
}
