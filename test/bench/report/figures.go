package report

import "github.com/hyperhq/hyper/test/bench/stats"

// Ref names a series: a quantity by its name, a contestant, a number of containers.
type Ref struct {
	Quantity string `json:"quantity"`
	Of       string `json:"of"`
	At       int    `json:"at,omitempty"`
}

// Figure is a promise that a measurement keeps or breaks.
type Figure struct {
	What string `json:"what"`
	Ours Ref    `json:"ours"`
	// Over is what Ours is divided by; nothing if it is empty.
	Over Ref `json:"over,omitzero"`
	// Least says that Must and Aim are to be reached, not to be kept under.
	Least bool    `json:"least,omitempty"`
	Must  float64 `json:"must"`
	Aim   float64 `json:"aim"`
	// Unit is that of a figure that is no ratio.
	Unit string `json:"unit,omitempty"`
}

// Outcomes of a figure.
const (
	Missed      = "missed"
	Met         = "met"
	Reached     = "aim reached"
	NotMeasured = "not measured"
)

// Verdict is what became of a figure.
type Verdict struct {
	Figure
	Measured *stats.Ratio `json:"measured"` // nil if it was not
	Outcome  string       `json:"outcome"`
}

// Judge holds the figures against what was measured.
func (r *Report) Judge(figures []Figure) []Verdict {
	verdicts := make([]Verdict, 0, len(figures))
	for _, f := range figures {
		verdicts = append(verdicts, r.judge(f))
	}
	return verdicts
}

func (r *Report) judge(f Figure) Verdict {
	v := Verdict{Figure: f, Outcome: NotMeasured}
	ours := r.find(f.Ours.Quantity, f.Ours.Of, f.Ours.At)
	if ours == nil || len(ours.Values) == 0 {
		return v
	}
	one := []float64{1}
	if f.Over != (Ref{}) {
		over := r.find(f.Over.Quantity, f.Over.Of, f.Over.At)
		if over == nil || len(over.Values) == 0 {
			return v
		}
		one = over.Values
	}
	ratio := stats.Compare(ours.Values, one)
	if !ratio.Sound() {
		return v
	}
	v.Measured = &ratio
	switch {
	case f.reaches(ratio.Value, f.Aim):
		v.Outcome = Reached
	case f.reaches(ratio.Value, f.Must):
		v.Outcome = Met
	default:
		v.Outcome = Missed
	}
	return v
}

func (f Figure) reaches(value, bound float64) bool {
	if f.Least {
		return value >= bound
	}
	return value <= bound
}
