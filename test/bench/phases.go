package main

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hyperhq/hyper/test/bench/report"
)

// startMessage is in the line that the shim logs of each start: see
// docs/operations.md.
const startMessage = `msg="guest is ready"`

// phaseOrder is that of a start. Phases that are not here come after these.
var phaseOrder = []string{"machine", "agent", "configured"}

// startLines are the lines of a log that tell the phases of a start.
func startLines(log []byte) []string {
	var found []string
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, startMessage) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// hasField says whether a line of a log has a field, as "name=value".
func hasField(line, field string) bool { return slices.Contains(strings.Fields(line), field) }

var phaseField = regexp.MustCompile(`(?:^|\s)([a-z][a-z0-9_]*)_ms="?([0-9.]+)"?`)

// phasesOf are the durations that a line tells, in milliseconds. What it tells as
// an instant (…_at_ms) or as the sum (boot_ms) is none.
func phasesOf(line string) map[string]float64 {
	phases := map[string]float64{}
	for _, field := range phaseField.FindAllStringSubmatch(line, -1) {
		name := field[1]
		if name == "boot" || name == "total" || strings.HasSuffix(name, "_at") {
			continue
		}
		if ms, err := strconv.ParseFloat(field[2], 64); err == nil {
			phases[name] = ms
		}
	}
	return phases
}

// addPhases reports the phases of the starts that a contestant has logged since its
// log had a size, and what they leave of the times to the first byte.
func (b *bench) addPhases(c *contestant, since int64) error {
	if !c.isHyper() {
		return nil
	}
	text, err := c.cell.LogFrom(since)
	if err != nil {
		return err
	}
	lines := startLines(text)
	if len(lines) == 0 {
		b.report.Note("%s has logged no phases of its starts.", c.name)
		return nil
	}
	if unsettled := count(lines, func(line string) bool { return c.settled != "" && !hasField(line, c.settled) }); unsettled > 0 {
		b.report.Note("%d of %d starts of %s were not %s.", unsettled, len(lines), c.name, c.settled)
	}
	b.report.Stacks = append(b.report.Stacks, stack(c.name, lines, b.report.Of(runFirstByte, c.name, 0).Values))
	return nil
}

func count(lines []string, is func(string) bool) (n int) {
	for _, line := range lines {
		if is(line) {
			n++
		}
	}
	return n
}

// stack makes a stack of the phases in lines. If there is a line for each of the
// wholes, in their order, what the phases leave of them is the last step.
func stack(name string, lines []string, wholes []float64) report.Stack {
	values, rest := map[string][]float64{}, []float64{}
	for i, line := range lines {
		var sum float64
		for phase, ms := range phasesOf(line) {
			values[phase] = append(values[phase], ms)
			sum += ms
		}
		if len(lines) == len(wholes) {
			rest = append(rest, wholes[i]-sum)
		}
	}
	s := report.Stack{Of: name}
	for _, phase := range ordered(values) {
		s.Steps = append(s.Steps, report.Step{Name: phase, Values: values[phase]})
	}
	if len(rest) > 0 {
		s.Steps = append(s.Steps, report.Step{Name: "rest", Values: rest})
	}
	return s
}

// ordered are the phases in the order of a start.
func ordered(values map[string][]float64) []string {
	var names, others []string
	for _, name := range phaseOrder {
		if len(values[name]) > 0 {
			names = append(names, name)
		}
	}
	for name := range values {
		if !slices.Contains(phaseOrder, name) {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	return append(names, others...)
}
