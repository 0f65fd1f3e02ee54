package main

import (
	"math"
	"slices"
)

// Series is one quantity, measured several times.
type Series struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"` // in the order of measuring
	Median float64   `json:"median"`
	P10    float64   `json:"p10"`
	P90    float64   `json:"p90"`
}

// add notes one value.
func (s *Series) add(v float64) { s.Values = append(s.Values, v) }

// finish computes what summarises the values.
func (s *Series) finish() {
	s.Median, s.P10, s.P90 = quantile(s.Values, 0.5), quantile(s.Values, 0.1), quantile(s.Values, 0.9)
}

// quantile interpolates between the nearest of the sorted values.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 == len(sorted) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}
