package main

import (
	"maps"
	"slices"
	"testing"
)

const (
	startLine = `time="2026-11-22T06:21:30Z" level=info msg="guest is ready" agent_ms=452.3 boot_ms=510.4 from=template configured_ms=8 guest_init_at_ms=120.5 machine_ms=50.1 runtime=io.containerd.hyper.v2 sandbox=c1`
	coldLine  = `time="2026-11-22T06:21:31Z" level=info msg="guest is ready" agent_ms=700 from=boot machine_ms=60 network_ms=2`
)

func TestPhasesOf(t *testing.T) {
	want := map[string]float64{"agent": 452.3, "configured": 8, "machine": 50.1}
	if got := phasesOf(startLine); !maps.Equal(got, want) {
		t.Errorf("the phases are %v, want %v", got, want)
	}
}

func TestStartLines(t *testing.T) {
	log := "first\n" + startLine + "\ntime=x msg=\"something else\" agent_ms=3\n  " + coldLine + "\n"
	if got := startLines([]byte(log)); !slices.Equal(got, []string{startLine, coldLine}) {
		t.Errorf("the lines of starts are %q", got)
	}
}

func TestHasField(t *testing.T) {
	if !hasField(startLine, "from=template") || hasField(startLine, "from=boot") || hasField(startLine, "from") {
		t.Error("a field is mistaken")
	}
}

func TestStack(t *testing.T) {
	s := stack("hyper", []string{startLine, coldLine}, []float64{600, 800})
	want := []struct {
		name   string
		values []float64
	}{
		{"machine", []float64{50.1, 60}}, {"agent", []float64{452.3, 700}}, {"configured", []float64{8}},
		{"network", []float64{2}}, {"rest", []float64{600 - 510.4, 800 - 762}},
	}
	if len(s.Steps) != len(want) {
		t.Fatalf("the steps are %+v", s.Steps)
	}
	for i, step := range s.Steps {
		near := func(a, b float64) bool { return a-b < 1e-6 && b-a < 1e-6 }
		if step.Name != want[i].name || !slices.EqualFunc(step.Values, want[i].values, near) {
			t.Errorf("step %d is %+v, want %+v", i, step, want[i])
		}
	}
	if s := stack("hyper", []string{startLine}, []float64{600, 800}); slices.ContainsFunc(s.Steps, isRest) {
		t.Error("there is a rest of starts that were not all logged")
	}
}
