package main

import "testing"

func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{5}, 0.5, 5}, {[]float64{5}, 0.9, 5},
		{[]float64{3, 1, 2}, 0.5, 2}, {[]float64{4, 1, 2, 3}, 0.5, 2.5},
		{[]float64{10, 0}, 0.1, 1}, {[]float64{10, 0}, 0.9, 9}, {[]float64{1, 2, 3}, 1, 3},
	} {
		if got := quantile(test.values, test.q); got != test.want {
			t.Errorf("quantile(%v, %v) is %v, want %v", test.values, test.q, got, test.want)
		}
	}
}
