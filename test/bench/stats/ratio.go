package stats

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Ratio is one quantity divided by another.
type Ratio struct {
	// Value is the quotient of the medians.
	Value float64 `json:"value"`
	// Low and High bound it with a confidence of 95 %.
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Sound says whether the ratio means something: of nothing, over zero or of what is
// less than zero there is none.
func (r Ratio) Sound() bool {
	return r.Low > 0 && !math.IsInf(r.High, 0) && !math.IsNaN(r.Value+r.High)
}

// resamples is how often a comparison is drawn anew: enough for two digits of
// the bounds.
const resamples = 2000

// Compare divides the median of ours by that of theirs. What the machine did
// besides met value i of both, if they were measured by turns: so the bounds come
// from drawing pairs, as long as each has its partner, and else from drawing from
// each by itself. The same values have the same bounds.
func Compare(ours, theirs []float64) Ratio {
	r := Ratio{Value: Median(ours) / Median(theirs)}
	r.Low, r.High = r.Value, r.Value
	if len(ours) < 2 || len(theirs) < 2 {
		return r
	}
	random := rand.New(rand.NewPCG(1, 2))
	drawn := make([]float64, resamples)
	a, b := make([]float64, len(ours)), make([]float64, len(theirs))
	for i := range drawn {
		draw(random, a, ours, b, theirs)
		slices.Sort(a)
		slices.Sort(b)
		drawn[i] = quantileOfSorted(a, 0.5) / quantileOfSorted(b, 0.5)
	}
	slices.Sort(drawn)
	r.Low, r.High = quantileOfSorted(drawn, 0.025), quantileOfSorted(drawn, 0.975)
	return r
}

// draw fills a and b with values of x and y, pairs of them if these are pairs.
func draw(random *rand.Rand, a, x, b, y []float64) {
	if len(x) == len(y) {
		for i := range a {
			k := random.IntN(len(x))
			a[i], b[i] = x[k], y[k]
		}
		return
	}
	for i := range a {
		a[i] = x[random.IntN(len(x))]
	}
	for i := range b {
		b[i] = y[random.IntN(len(y))]
	}
}
