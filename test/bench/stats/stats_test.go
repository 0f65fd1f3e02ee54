package stats

import (
	"math"
	"testing"
)

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
		if got := Quantile(test.values, test.q); got != test.want {
			t.Errorf("Quantile(%v, %v) is %v, want %v", test.values, test.q, got, test.want)
		}
	}
	if got := Quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("a quantile of nothing is %v", got)
	}
}

func TestSummarize(t *testing.T) {
	values := []float64{10, 0, 5, 1, 9, 2, 8, 3, 7, 4, 6}
	if got, want := Summarize(values), (Summary{N: 11, Median: 5, P10: 1, P90: 9}); got != want {
		t.Errorf("Summarize is %+v, want %+v", got, want)
	}
	if values[0] != 10 {
		t.Error("Summarize has sorted what it was given")
	}
}

func TestSlope(t *testing.T) {
	for _, test := range []struct {
		name       string
		x, y       []float64
		want       float64
		impossible bool
	}{
		{name: "a line", x: []float64{4, 8, 16, 32}, y: []float64{108, 116, 132, 164}, want: 2},
		{name: "noise around a line", x: []float64{1, 2, 3, 4}, y: []float64{6, 5, 7, 10}, want: 1.4},
		{name: "falling", x: []float64{0, 10}, y: []float64{5, 0}, want: -0.5},
		{name: "one place", x: []float64{3, 3}, y: []float64{1, 2}, impossible: true},
		{name: "one point", x: []float64{3}, y: []float64{1}, impossible: true},
	} {
		got := Slope(test.x, test.y)
		if test.impossible != math.IsNaN(got) || !test.impossible && math.Abs(got-test.want) > 1e-9 {
			t.Errorf("%s: the slope is %v, want %v", test.name, got, test.want)
		}
	}
}

func TestCompare(t *testing.T) {
	// Each pair has the ratio 2, whatever the machine did: so there is no doubt.
	r := Compare([]float64{2, 4, 6, 8, 20}, []float64{1, 2, 3, 4, 10})
	if r != (Ratio{2, 2, 2}) {
		t.Errorf("of pairs that agree: %+v", r)
	}
	r = Compare([]float64{10, 11, 12, 13, 14}, []float64{5, 9, 4, 6, 5})
	if r.Value != 12.0/5 || r.Low >= r.Value || r.High <= r.Value || r.Low < 10.0/9 || r.High > 14.0/4 {
		t.Errorf("of pairs that do not agree: %+v", r)
	}
	if again := Compare([]float64{10, 11, 12, 13, 14}, []float64{5, 9, 4, 6, 5}); again != r {
		t.Errorf("the same values: %+v and %+v", r, again)
	}
	r = Compare([]float64{4, 6, 5}, []float64{1, 1})
	if r.Value != 5 || r.Low != 4 || r.High != 6 {
		t.Errorf("of values without partners: %+v", r)
	}
	if r = Compare([]float64{3}, []float64{2}); r != (Ratio{1.5, 1.5, 1.5}) {
		t.Errorf("of one value each: %+v", r)
	}
}

func TestSound(t *testing.T) {
	if r := Compare([]float64{1, 2}, []float64{3, 4}); !r.Sound() {
		t.Errorf("%+v is not sound", r)
	}
	for _, r := range []Ratio{Compare(nil, []float64{1}), Compare([]float64{1}, []float64{0}), Compare([]float64{1, 2}, []float64{0, 4}), Compare([]float64{2}, []float64{-1})} {
		if r.Sound() {
			t.Errorf("%+v is sound", r)
		}
	}
}
