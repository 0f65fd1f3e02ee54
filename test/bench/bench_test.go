package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/hyperhq/hyper/test/bench/report"
)

func isRest(s report.Step) bool { return s.Name == "rest" }

func TestAccelOf(t *testing.T) {
	for want, args := range map[string][]string{
		"tcg":     {"qemu", "-name", "x", "-accel", "tcg,thread=single"},
		"kvm":     {"qemu", "-accel", "kvm"},
		"unknown": {"qemu", "-accel"},
	} {
		if got := accelOf(args); got != want {
			t.Errorf("%q is accelerated by %s, want %s", args, got, want)
		}
	}
}

// turns is a bench whose contestants are only names.
func turns(all ...*contestant) *bench {
	return &bench{contestants: all, report: &report.Report{}, progress: progress{out: io.Discard}}
}

func TestByTurns(t *testing.T) {
	b := turns(&contestant{name: "a"}, &contestant{name: "b", optional: true}, &contestant{name: "c"})
	var order []string
	err := b.byTurns(t.Context(), "test", 3, func(_ context.Context, c *contestant) error {
		order = append(order, c.name)
		if c.name == "b" && len(order) > 3 {
			return errors.New("does not run\nand says much about it")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(order, ""), "abcabcac"; got != want {
		t.Errorf("the order is %s, want %s: a peer that fails is left out", got, want)
	}
	if want := []string{"b is left out from here on: does not run"}; !slices.Equal(b.report.Notes, want) {
		t.Errorf("the notes are %q, want %q", b.report.Notes, want)
	}
}

func TestByTurnsEnds(t *testing.T) {
	b := turns(&contestant{name: "a"})
	broken := errors.New("broken")
	if err := b.byTurns(t.Context(), "test", 3, func(context.Context, *contestant) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("of a contestant that must run: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	rounds := 0
	err := b.byTurns(ctx, "test", 3, func(context.Context, *contestant) error { rounds++; cancel(); return nil })
	if !errors.Is(err, context.Canceled) || rounds != 1 {
		t.Errorf("interrupted in the first round: %v after %d", err, rounds)
	}
}

func TestScriptCleansUp(t *testing.T) {
	var order []string
	wrong := errors.New("wrong")
	err := run(t.Context(), func(s *script) {
		s.Cleanup(func() { order = append(order, "first") })
		s.Cleanup(func() { order = append(order, "second") })
		s.Fatalf("this is %w", wrong)
	})
	if !errors.Is(err, wrong) || !slices.Equal(order, []string{"second", "first"}) {
		t.Errorf("error %v, cleanups %q", err, order)
	}
}

func TestGather(t *testing.T) {
	results := make(chan error, 3)
	for _, err := range []error{nil, errors.New("one"), errors.New("two")} {
		results <- err
	}
	if err := gather(results, 3); err == nil || err.Error() != "2 of 3 failed, the first: one" {
		t.Errorf("gathered %v", err)
	}
	results <- nil
	if err := gather(results, 1); err != nil {
		t.Errorf("gathered %v of what went well", err)
	}
}

func TestGuard(t *testing.T) {
	available, err := availableMiB()
	if err != nil {
		t.Fatal(err)
	}
	g := &guard{eachMiB: available}
	if fits, err := g.allows(2); err != nil || fits {
		t.Errorf("twice the memory is allowed: %v", err)
	}
	g = &guard{}
	if err := g.note(available+1<<20, 1<<10); err != nil {
		t.Fatal(err)
	}
	if g.eachMiB < 1000 || g.eachMiB > 1050 {
		t.Errorf("a container of a thousand that took a tebibyte took %v MiB", g.eachMiB)
	}
	if err := g.note(available, 1<<10); err != nil || g.eachMiB < 1000 {
		t.Errorf("the guard forgets: %v MiB, %v", g.eachMiB, err)
	}
}

// A promise about what nobody measures would never be kept or broken.
func TestFiguresAreMeasured(t *testing.T) {
	measured := map[string]bool{}
	for _, q := range []report.Quantity{runFirstByte, runWhole, execWhole, deleteAll, parallelUp, parallelDown, slopePSS, slopeTaken, bootFirstWord} {
		measured[q.Name] = true
	}
	known := []string{hyper, cold, pool, runc, bare}
	for _, f := range figures(counts{1, 100}) {
		for _, ref := range []report.Ref{f.Ours, f.Over} {
			if ref != (report.Ref{}) && (!measured[ref.Quantity] || !slices.Contains(known, ref.Of)) {
				t.Errorf("%s is about %+v", f.What, ref)
			}
		}
		if f.Least != (f.Aim > f.Must) {
			t.Errorf("%s: the aim %v is less than the promise %v", f.What, f.Aim, f.Must)
		}
	}
}

func TestDateIn(t *testing.T) {
	if date, ok := dateIn("0.0~20221219.0"); !ok || date != "2022-12-19" {
		t.Errorf("the date is %q, %v", date, ok)
	}
	for _, version := range []string{"1.1.5", "20229919", "120221219"} {
		if date, ok := dateIn(version); ok {
			t.Errorf("%s has the date %s", version, date)
		}
	}
}
