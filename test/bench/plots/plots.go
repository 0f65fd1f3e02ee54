// Package plots draws what a run of the benchmark has measured, as SVG.
package plots

import (
	"fmt"
	"image/color"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/hyperhq/hyper/test/bench/report"
)

// drawing is a plot with its file's name.
type drawing struct {
	name   string
	plot   *plot.Plot
	height vg.Length
}

// Write draws all that the report has enough values for. Plots that another run has
// left in dir are removed: beside this one's tables they would mislead.
func Write(dir string, r *report.Report) error {
	old, _ := filepath.Glob(filepath.Join(dir, "*.svg"))
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("removing an old plot: %w", err)
		}
	}
	for _, draw := range []func(*report.Report) ([]drawing, error){distributions, scaling, phases} {
		drawings, err := draw(r)
		if err != nil {
			return fmt.Errorf("drawing: %w", err)
		}
		for _, d := range drawings {
			if err := d.save(dir); err != nil {
				return fmt.Errorf("drawing %s: %w", d.name, err)
			}
		}
	}
	return nil
}

// width is that of all drawings.
const width = 18 * vg.Centimeter

func (d drawing) save(dir string) error {
	canvas := vgsvg.New(width, d.height)
	const margin = 3 * vg.Millimeter
	d.plot.Draw(draw.Crop(draw.New(canvas), margin, -margin, margin, -margin))
	f, err := os.Create(filepath.Join(dir, d.name+".svg"))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := canvas.WriteTo(f); err != nil {
		return err
	}
	return f.Close()
}

// newPlot is an empty one.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.X.Label.Text, p.Y.Label.Text = x, y
	p.Title.Padding = 3 * vg.Millimeter
	p.Legend.Top = true
	p.BackgroundColor = color.White
	return p
}

// palette gives each contestant its colour, the same in every drawing.
type palette map[string]int

func newPalette(r *report.Report) palette {
	p := palette{}
	for _, s := range r.Series {
		if _, ok := p[s.Of]; !ok {
			p[s.Of] = len(p)
		}
	}
	return p
}

func (p palette) color(of string) color.Color {
	return plotutil.SoftColors[p[of]%len(plotutil.SoftColors)]
}

// quantities are those of the report's series, in order, each once; which says of
// what series.
func quantities(r *report.Report, which func(*report.Series) bool) []report.Quantity {
	var all []report.Quantity
	seen := map[string]bool{}
	for _, s := range r.Series {
		if which(s) && !seen[s.Name] {
			seen[s.Name] = true
			all = append(all, s.Quantity)
		}
	}
	return all
}
