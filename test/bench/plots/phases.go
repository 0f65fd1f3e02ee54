package plots

import (
	"slices"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"github.com/hyperhq/hyper/test/bench/report"
)

// phases draws the starts as bars, one for each contestant, of the medians of their
// phases. There is no such drawing of no phases.
func phases(r *report.Report) ([]drawing, error) {
	if len(r.Stacks) == 0 {
		return nil, nil
	}
	const bar = vg.Length(12) * vg.Millimeter
	p := newPlot("phases of a start, medians", "ms", "")
	p.X.Min = 0
	// The first is to be on top, where y is largest.
	stacks := slices.Clone(r.Stacks)
	slices.Reverse(stacks)
	var names []string
	for _, stack := range stacks {
		names = append(names, stack.Of)
	}
	var below *plotter.BarChart
	for i, step := range steps(r.Stacks) {
		bars, err := plotter.NewBarChart(lengths(stacks, step), bar)
		if err != nil {
			return nil, err
		}
		bars.Horizontal = true
		bars.Color, bars.LineStyle.Width = plotutil.SoftColors[i%len(plotutil.SoftColors)], 0
		if below != nil {
			bars.StackOn(below)
		}
		below = bars
		p.Add(bars)
		p.Legend.Add(step, bars)
	}
	p.NominalY(names...)
	p.Y.Max += 0.8 // room for the legend
	p.Y.Min -= 0.2
	return []drawing{{"phases", p, vg.Length(len(names))*2*vg.Centimeter + 6*vg.Centimeter}}, nil
}

// steps are the names of all steps, in the order of the stacks; what is left of a
// start is last.
func steps(stacks []report.Stack) []string {
	const rest = "rest"
	var names []string
	for _, stack := range stacks {
		for _, step := range stack.Steps {
			if step.Name != rest && !slices.Contains(names, step.Name) {
				names = append(names, step.Name)
			}
		}
	}
	return append(names, rest)
}

// lengths are the medians of one step, in the order of the stacks; none is 0.
func lengths(stacks []report.Stack, name string) plotter.Values {
	values := make(plotter.Values, len(stacks))
	for i, stack := range stacks {
		for _, step := range stack.Steps {
			if step.Name == name {
				values[i] = max(step.Median, 0)
			}
		}
	}
	return values
}
