package plots

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/plot/plotter"

	"github.com/hyperhq/hyper/test/bench/report"
)

func measured() *report.Report {
	r := &report.Report{}
	run := report.Quantity{Name: "Run", Title: "a whole run", Unit: "ms"}
	up := report.Quantity{Name: "Up", Title: "all at once", Unit: "ms"}
	for _, of := range []string{"hyper", "runc"} {
		for i := range 6 {
			r.Of(run, of, 0).Add(float64(100 + i))
		}
		r.Of(up, of, 10).Add(2500)
		r.Of(up, of, 2).Add(500)
	}
	r.Of(report.Quantity{Name: "Few", Unit: "MB"}, "hyper", 0).Add(1)
	r.Stacks = []report.Stack{
		{Of: "hyper", Steps: []report.Step{{Name: "machine", Values: []float64{30}}, {Name: "rest", Values: []float64{5}}}},
		{Of: "other", Steps: []report.Step{{Name: "machine", Values: []float64{20}}, {Name: "agent", Values: []float64{9}}, {Name: "rest", Values: []float64{6}}}},
	}
	r.Finish()
	return r
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "distribution-Gone.svg")
	if err := os.WriteFile(stale, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, measured()); err != nil {
		t.Fatal(err)
	}
	found, _ := filepath.Glob(filepath.Join(dir, "*"))
	var names []string
	for _, file := range found {
		names = append(names, filepath.Base(file))
	}
	want := []string{"distribution-Run.svg", "phases.svg", "scaling-Up.svg"}
	if !slices.Equal(names, want) {
		t.Fatalf("the plots are %q, want %q", names, want)
	}
	for name, words := range map[string][]string{
		"distribution-Run.svg": {"a whole run", "ms", "hyper", "runc"},
		"scaling-Up.svg":       {"all at once", "containers", "hyper", "runc"},
		"phases.svg":           {"machine", "agent", "rest", "hyper", "other"},
	} {
		texts := textsOf(t, filepath.Join(dir, name))
		for _, word := range words {
			if !slices.Contains(texts, word) {
				t.Errorf("%s does not say %q: %q", name, word, texts)
			}
		}
	}
}

func TestWriteOfNothing(t *testing.T) {
	dir := t.TempDir()
	if err := Write(dir, &report.Report{}); err != nil {
		t.Fatal(err)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "*")); len(found) > 0 {
		t.Errorf("plots of nothing: %q", found)
	}
}

// textsOf are the words in an SVG file, which must be well-formed.
func textsOf(t *testing.T, file string) []string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var texts []string
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if text, ok := token.(xml.CharData); ok {
			texts = append(texts, strings.TrimSpace(string(text)))
		}
	}
}

func TestCumulative(t *testing.T) {
	got := cumulative([]float64{3, 1})
	want := plotter.XYs{{X: 1, Y: 0}, {X: 1, Y: 0.5}, {X: 3, Y: 0.5}, {X: 3, Y: 1}}
	if !slices.Equal(got, want) {
		t.Errorf("cumulative is %v, want %v", got, want)
	}
}

func TestMedians(t *testing.T) {
	got := medians(measured(), "Up", "runc", 1000)
	if want := (plotter.XYs{{X: 2, Y: 0.5}, {X: 10, Y: 2.5}}); !slices.Equal(got, want) {
		t.Errorf("medians are %v, want %v", got, want)
	}
}

func TestLengths(t *testing.T) {
	stacks := measured().Stacks
	if got, want := steps(stacks), []string{"machine", "agent", "rest"}; !slices.Equal(got, want) {
		t.Errorf("steps are %q, want %q", got, want)
	}
	if got, want := lengths(stacks, "agent"), (plotter.Values{0, 9}); !slices.Equal(got, want) {
		t.Errorf("lengths are %v, want %v", got, want)
	}
}
