// Package stats computes what summarises measurements: quantiles, ratios with
// their confidence, slopes.
package stats

import (
	"math"
	"slices"
)

// Summary says in a few numbers what many values are.
type Summary struct {
	N      int     `json:"n"`
	Median float64 `json:"median"`
	P10    float64 `json:"p10"`
	P90    float64 `json:"p90"`
}

// Summarize summarises values, of which there is at least one.
func Summarize(values []float64) Summary {
	return Summary{N: len(values), Median: Median(values), P10: Quantile(values, 0.1), P90: Quantile(values, 0.9)}
}

// Median is the middle of the sorted values, NaN of none.
func Median(values []float64) float64 { return Quantile(values, 0.5) }

// Quantile interpolates between the nearest of the sorted values, NaN of none.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return quantileOfSorted(slices.Sorted(slices.Values(values)), q)
}

func quantileOfSorted(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}
