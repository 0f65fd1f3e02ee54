package plots

import (
	"slices"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"

	"github.com/hyperhq/hyper/test/bench/report"
)

// fewest is how many values make a distribution.
const fewest = 5

// distributions draws for each quantity which part of the values is at most so
// large, a line for each contestant.
func distributions(r *report.Report) ([]drawing, error) {
	distributed := func(s *report.Series) bool { return s.At == 0 && len(s.Values) >= fewest }
	colors := newPalette(r)
	var all []drawing
	for _, q := range quantities(r, distributed) {
		p := newPlot(q.Title, q.Unit, "part of the values")
		p.Add(plotter.NewGrid())
		p.X.Min, p.Y.Min, p.Y.Max = 0, 0, 1
		p.Legend.Top = false
		for _, s := range r.Series {
			if s.Name != q.Name || !distributed(s) {
				continue
			}
			line, err := plotter.NewLine(cumulative(s.Values))
			if err != nil {
				return nil, err
			}
			line.Color, line.Width = colors.color(s.Of), vg.Points(1.5)
			p.Add(line)
			p.Legend.Add(s.Of, line)
		}
		all = append(all, drawing{"distribution-" + q.Name, p, 9 * vg.Centimeter})
	}
	return all, nil
}

// cumulative are the corners of the line that rises by one value's part at each.
func cumulative(values []float64) plotter.XYs {
	sorted := slices.Sorted(slices.Values(values))
	points := make(plotter.XYs, 0, 2*len(sorted))
	for i, v := range sorted {
		n := float64(len(sorted))
		points = append(points, plotter.XY{X: v, Y: float64(i) / n}, plotter.XY{X: v, Y: float64(i+1) / n})
	}
	return points
}
