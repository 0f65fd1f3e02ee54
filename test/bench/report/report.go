// Package report holds what a run of the benchmark has measured, judges it, and
// writes it in forms for people, for programs and for benchstat.
package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hyperhq/hyper/test/bench/stats"
)

// Quantity is something that can be measured of several contestants.
type Quantity struct {
	// Name is that of a Go benchmark without its first word: "RunFirstByte".
	Name string `json:"name"`
	// Title says to a person what is measured.
	Title string `json:"title"`
	// Unit is "ms", "MB" or "MB/s".
	Unit string `json:"unit"`
}

// Series are the values of one quantity of one contestant.
type Series struct {
	Quantity
	// Of names the contestant.
	Of string `json:"of"`
	// At is the number of containers that it was measured with, if that varies.
	At int `json:"at,omitempty"`
	// Values are in the order of measuring.
	Values []float64 `json:"values"`
	stats.Summary
}

// Add notes one value.
func (s *Series) Add(v float64) { s.Values = append(s.Values, v) }

// Stack is a start taken apart, as the runtime tells it in its log.
type Stack struct {
	Of    string `json:"of"`
	Steps []Step `json:"steps"`
}

// Step is one phase of a start, in milliseconds.
type Step struct {
	Name   string    `json:"name"`
	Values []float64 `json:"values"`
	stats.Summary
}

// Report is all that one run has measured, and on what.
type Report struct {
	Machine Machine `json:"machine"`
	// Accel is how the guests' code is run: "kvm" or "tcg", which is emulation.
	Accel string `json:"acceleration"`
	// Contestants are what was measured, by the names that series have.
	Contestants []Contestant `json:"contestants"`
	// Versions are of what was measured, in the order of telling.
	Versions []Version `json:"versions"`
	Begin    time.Time `json:"begin"`
	End      time.Time `json:"end"`
	// Command is how to have it again.
	Command string `json:"command"`
	// Notes are what a reader must know: contestants that are missing, groups that
	// failed, a machine that was busy.
	Notes  []string  `json:"notes"`
	Series []*Series `json:"series"`
	Stacks []Stack   `json:"phases"`
}

// Contestant is a runtime with a configuration.
type Contestant struct {
	Name   string `json:"name"`
	About  string `json:"about"`
	Config string `json:"config,omitempty"`
}

// Version is one part's.
type Version struct {
	Of   string `json:"of"`
	What string `json:"what"`
}

// Of returns the series of a quantity of a contestant, a new one if there is none.
func (r *Report) Of(q Quantity, of string, at int) *Series {
	if s := r.find(q.Name, of, at); s != nil {
		return s
	}
	s := &Series{Quantity: q, Of: of, At: at}
	r.Series = append(r.Series, s)
	return s
}

// find returns nil if nothing was measured.
func (r *Report) find(name, of string, at int) *Series {
	for _, s := range r.Series {
		if s.Name == name && s.Of == of && s.At == at {
			return s
		}
	}
	return nil
}

// Note tells the reader something, once.
func (r *Report) Note(format string, args ...any) {
	if note := fmt.Sprintf(format, args...); !slices.Contains(r.Notes, note) {
		r.Notes = append(r.Notes, note)
	}
}

// Finish computes the summaries, once everything is measured. What has no value
// is dropped, and what is of one quantity and number stands together.
func (r *Report) Finish() {
	r.Series = slices.DeleteFunc(r.Series, func(s *Series) bool { return len(s.Values) == 0 })
	first := map[string]int{}
	for i, s := range slices.Backward(r.Series) {
		first[s.Name] = i
	}
	slices.SortStableFunc(r.Series, func(a, b *Series) int {
		return cmp.Or(cmp.Compare(first[a.Name], first[b.Name]), cmp.Compare(a.At, b.At))
	})
	for _, s := range r.Series {
		s.Summary = stats.Summarize(s.Values)
	}
	for _, stack := range r.Stacks {
		for i := range stack.Steps {
			stack.Steps[i].Summary = stats.Summarize(stack.Steps[i].Values)
		}
	}
}

// Write puts the report into a directory: bench.json, bench.md and bench.txt.
// It is to be finished before.
func (r *Report) Write(dir string, figures []Figure) error {
	data, err := json.MarshalIndent(struct {
		*Report
		Figures     []Verdict    `json:"figures"`
		Comparisons []Comparison `json:"comparisons"`
	}{r, r.Judge(figures), r.Compare()}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the report: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range map[string][]byte{
		"bench.json": append(data, '\n'),
		"bench.md":   []byte(r.Markdown(figures)),
		"bench.txt":  []byte(r.Benchmarks()),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
	}
	return nil
}
