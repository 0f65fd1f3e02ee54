package main

import (
	"flag"
	"fmt"
	"io"
	"text/tabwriter"
)

const helpHead = `Measure Hyper beside runc and others, on this machine, by turns.

	make bench                                  everything
	make bench BENCH_FLAGS='-only run -n 10'    one group, quickly
	make bench BENCH_FLAGS="-only 'run|exec'"   two groups
	make bench BENCH_FLAGS=-dry-run             what would be done, and for how long

It needs root, what ` + "`make build guest containerd`" + ` makes, and a machine that does
nothing else: a busy one is told of in the report. It starts containerds of its own,
touches no other, and leaves nothing behind.

Groups:
`

const helpContestants = `
Contestants:
`

const helpTail = `
Hyper with other settings is one more contestant; the file has lines as in
config/config.toml:

	make bench BENCH_FLAGS='-only run -with small=/root/small.toml'

Results are in $HYPER_OUTPUT/bench (_output/bench):

	bench.md    the figures that Hyper promises, and all else, as tables
	bench.json  every value
	bench.txt   every value for benchstat: ` + "`benchstat old/bench.txt new/bench.txt`" + `,
	            or contestants side by side: ` + "`benchstat -col /of bench.txt`" + `
	*.svg       distributions, phases of a start, scaling

benchstat: go install golang.org/x/perf/cmd/benchstat@latest

Flags:
`

// usage teaches what the program can do.
func usage(w io.Writer, flags *flag.FlagSet) {
	fmt.Fprint(w, helpHead)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, g := range groups {
		fmt.Fprintf(table, "\t%s\t%s\n", g.name, g.about)
	}
	table.Flush()
	fmt.Fprint(w, helpContestants)
	for _, c := range contestants {
		fmt.Fprintf(table, "\t%s\t%s\n", c.name, c.about)
	}
	table.Flush()
	fmt.Fprint(w, helpTail)
	flags.PrintDefaults()
}
