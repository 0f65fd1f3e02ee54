package plots

import (
	"slices"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/hyperhq/hyper/test/bench/report"
)

// scaling draws how quantities grow with the number of containers: the medians, a
// line for each contestant.
func scaling(r *report.Report) ([]drawing, error) {
	scaled := func(s *report.Series) bool { return s.At > 0 }
	colors := newPalette(r)
	var all []drawing
	for _, q := range quantities(r, scaled) {
		unit, divisor := q.Unit, 1.0
		if unit == "ms" {
			unit, divisor = "s", 1000
		}
		p := newPlot(q.Title, "containers", unit)
		p.Add(plotter.NewGrid())
		p.X.Min, p.Y.Min = 0, 0
		p.Legend.Left = true
		for _, of := range contestants(r, q.Name) {
			line, dots, err := plotter.NewLinePoints(medians(r, q.Name, of, divisor))
			if err != nil {
				return nil, err
			}
			line.Color, line.Width = colors.color(of), vg.Points(1.5)
			dots.Color, dots.Shape = line.Color, draw.CircleGlyph{}
			p.Add(line, dots)
			p.Legend.Add(of, line, dots)
		}
		all = append(all, drawing{"scaling-" + q.Name, p, 10 * vg.Centimeter})
	}
	return all, nil
}

// contestants are those that a quantity was measured of.
func contestants(r *report.Report, quantity string) []string {
	var names []string
	for _, s := range r.Series {
		if s.Name == quantity && !slices.Contains(names, s.Of) {
			names = append(names, s.Of)
		}
	}
	return names
}

// medians are a contestant's, by the number of containers.
func medians(r *report.Report, quantity, of string, divisor float64) plotter.XYs {
	var points plotter.XYs
	for _, s := range r.Series {
		if s.Name == quantity && s.Of == of && s.At > 0 {
			points = append(points, plotter.XY{X: float64(s.At), Y: s.Median / divisor})
		}
	}
	slices.SortFunc(points, func(a, b plotter.XY) int { return int(a.X - b.X) })
	return points
}
