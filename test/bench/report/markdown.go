package report

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hyperhq/hyper/test/bench/stats"
)

// Markdown is the report for a person.
func (r *Report) Markdown(figures []Figure) string {
	var b strings.Builder
	r.writeHead(&b)
	r.writeFigures(&b, figures)
	r.writeSeries(&b)
	r.writeStacks(&b)
	return b.String()
}

func (r *Report) writeHead(b *strings.Builder) {
	const minute = "2006-01-02 15:04"
	fmt.Fprintf(b, "# Benchmark of %s UTC\n\n", r.Begin.UTC().Format(minute))
	m := r.Machine
	fmt.Fprintf(b, "- Machine: %d CPUs (%s), %d MiB of memory, Linux %s\n", m.CPUs, m.CPU, m.MemoryMiB, m.Kernel)
	fmt.Fprintf(b, "- Acceleration: %s\n", accelName(r.Accel))
	var versions []string
	for _, v := range r.Versions {
		versions = append(versions, v.Of+" "+v.What)
	}
	fmt.Fprintf(b, "- Versions: %s\n", strings.Join(versions, "; "))
	for _, c := range r.Contestants {
		fmt.Fprintf(b, "- `%s`: %s%s\n", c.Name, c.About, configured(c.Config))
	}
	fmt.Fprintf(b, "- Load average: %.2f at the begin, %.2f at the end, %s later\n", m.LoadBegin, m.LoadEnd, r.End.Sub(r.Begin).Round(1e9))
	fmt.Fprintf(b, "- Command: `%s`\n", r.Command)
	for _, note := range r.Notes {
		fmt.Fprintf(b, "- **Note**: %s\n", note)
	}
}

// configured is a configuration in one line, after what it belongs to.
func configured(config string) string {
	lines := strings.FieldsFunc(config, func(r rune) bool { return r == '\n' })
	if len(lines) == 0 {
		return ""
	}
	return ", `" + strings.Join(lines, "; ") + "`"
}

// accelName says what the short name means.
func accelName(accel string) string {
	switch accel {
	case "kvm":
		return "KVM"
	case "tcg":
		return "none, QEMU emulates the processor (TCG)"
	default:
		return "unknown"
	}
}

func (r *Report) writeFigures(b *strings.Builder, figures []Figure) {
	b.WriteString("\n## Figures\n\n")
	b.WriteString("Ratios are of medians; in brackets the bounds with 95 % confidence.\n\n")
	b.WriteString("| Figure | Must | Aim | Measured | |\n|---|--:|--:|--:|---|\n")
	for _, v := range r.Judge(figures) {
		sign, measured := "≤", "–"
		if v.Least {
			sign = "≥"
		}
		if v.Measured != nil {
			measured = ratio(*v.Measured) + unit(v.Unit)
		}
		fmt.Fprintf(b, "| %s | %s %s | %s %s | %s | %s |\n", v.What,
			sign, number(v.Must)+unit(v.Unit), sign, number(v.Aim)+unit(v.Unit), measured, v.Outcome)
	}
}

func (r *Report) writeSeries(b *strings.Builder) {
	if len(r.Series) == 0 {
		return
	}
	b.WriteString("\n## All that was measured\n\n")
	b.WriteString("| What | | n | Median | p10–p90 | Ratio |\n|---|---|--:|--:|--:|--:|\n")
	for _, s := range r.Series {
		title, compared := s.Title, ""
		if s.At > 0 {
			title += ", " + strconv.Itoa(s.At)
		}
		if c, ok := r.compare(s); ok {
			compared = ratio(c.Ratio) + " × " + c.Over
		}
		fmt.Fprintf(b, "| %s | %s | %d | %s %s | %s–%s | %s |\n", title, s.Of, s.N, number(s.Median), s.Unit, number(s.P10), number(s.P90), compared)
	}
}

func (r *Report) writeStacks(b *strings.Builder) {
	if len(r.Stacks) == 0 {
		return
	}
	b.WriteString("\n## Phases of a start\n\n")
	b.WriteString("As the runtime logs them, in the runs of `ctr run`; `rest` is what they leave of the time to the first byte of output.\n\n")
	b.WriteString("| | Phase | n | Median | p10–p90 |\n|---|---|--:|--:|--:|\n")
	for _, stack := range r.Stacks {
		for _, step := range stack.Steps {
			fmt.Fprintf(b, "| %s | %s | %d | %s ms | %s–%s |\n", stack.Of, step.Name, step.N, number(step.Median), number(step.P10), number(step.P90))
		}
	}
}

// ratio has its bounds where there are any.
func ratio(r stats.Ratio) string {
	if r.Low == r.High {
		return number(r.Value)
	}
	return fmt.Sprintf("%s (%s–%s)", number(r.Value), number(r.Low), number(r.High))
}

// number has three digits, more only before the point.
func number(v float64) string {
	if v >= 1000 || v <= -1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

func unit(u string) string {
	if u == "" {
		return ""
	}
	return " " + u
}
