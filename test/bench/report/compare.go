package report

import (
	"slices"

	"github.com/hyperhq/hyper/test/bench/stats"
)

// references are what contestants are compared with: the first of them that a
// quantity was measured of.
var references = []string{"runc", "floor"}

// Comparison is one quantity of a contestant beside that of its reference.
type Comparison struct {
	Quantity string      `json:"quantity"`
	At       int         `json:"at,omitempty"`
	Of       string      `json:"of"`
	Over     string      `json:"over"`
	Ratio    stats.Ratio `json:"ratio"`
}

// Compare compares all that can be compared.
func (r *Report) Compare() []Comparison {
	var all []Comparison
	for _, s := range r.Series {
		if c, ok := r.compare(s); ok {
			all = append(all, c)
		}
	}
	return all
}

// compare is false for what has no reference, or is one.
func (r *Report) compare(s *Series) (Comparison, bool) {
	if slices.Contains(references, s.Of) {
		return Comparison{}, false
	}
	for _, reference := range references {
		if other := r.find(s.Name, reference, s.At); other != nil {
			ratio := stats.Compare(s.Values, other.Values)
			return Comparison{Quantity: s.Name, At: s.At, Of: s.Of, Over: reference, Ratio: ratio}, ratio.Sound()
		}
	}
	return Comparison{}, false
}
