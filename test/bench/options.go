package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// options are what to measure, and how often.
type options struct {
	n      int            // rounds
	only   *regexp.Regexp // of the names of groups
	of     *regexp.Regexp // of the names of contestants
	counts counts         // of containers at once
	deep   int            // sandboxes that the slope of memory goes up to
	dry    bool           // say what would be done
	extra  []contestant   // further configurations of Hyper

	arguments []string // as they were given
}

// parse reads the command line; what is wrong with it is told on out.
func parse(args []string, out io.Writer) (*options, error) {
	all := regexp.MustCompile("")
	o := &options{counts: counts{1, 2, 5, 10, 20, 50, 100}, only: all, of: all, arguments: args}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.IntVar(&o.n, "n", 30, "measure `rounds` of each comparison; fewer are for trying")
	flags.Func("only", "measure the groups whose names match a `regexp`", pattern(&o.only))
	flags.Func("of", "measure the contestants whose names match a `regexp`", pattern(&o.of))
	flags.Var(&o.counts, "counts", "start so many `containers` at once, in the group parallel")
	flags.IntVar(&o.deep, "deep", 32, "go up to so many `sandboxes` in the group memory")
	flags.BoolVar(&o.dry, "dry-run", false, "say what would be measured and how long it takes, and end")
	flags.Func("with", "measure Hyper with a configuration, too: `name=file`, may be given again", o.with)
	flags.Usage = func() { usage(out, flags) }
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	err := o.check(flags.Args())
	if err != nil {
		fmt.Fprintf(out, "bench: %v\n", err)
	}
	return o, err
}

// pattern sets a regular expression.
func pattern(to **regexp.Regexp) func(string) error {
	return func(s string) (err error) {
		*to, err = regexp.Compile(s)
		return err
	}
}

func (o *options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("%q is no flag; -help lists them", rest)
	case o.n < 1:
		return fmt.Errorf("-n %d: there must be one round", o.n)
	case o.deep < 2*memoryBegin:
		return fmt.Errorf("-deep %d: a slope needs %d sandboxes or more", o.deep, 2*memoryBegin)
	case len(o.chosen()) == 0:
		return fmt.Errorf("-of %s matches no contestant; -help lists them", o.of)
	case len(o.groups()) == 0:
		return fmt.Errorf("-only %s matches no group; -help lists them", o.only)
	}
	return nil
}

// with adds a contestant.
func (o *options) with(s string) error {
	name, file, ok := strings.Cut(s, "=")
	if !ok || !contestantName.MatchString(name) {
		return fmt.Errorf("want name=file, the name of small letters and digits")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(o.all(), func(c contestant) bool { return c.name == name }) {
		return fmt.Errorf("there is a contestant %s", name)
	}
	o.extra = append(o.extra, contestant{name: name, about: "Hyper configured by " + file, runtime: contestants[0].runtime, config: string(text), seconds: contestants[0].seconds})
	return nil
}

var contestantName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// all are the contestants that are known.
func (o *options) all() []contestant { return slices.Concat(contestants[:1], o.extra, contestants[1:]) }

// chosen are the contestants that are to be measured, if they can be had.
func (o *options) chosen() []contestant {
	return slices.DeleteFunc(o.all(), func(c contestant) bool { return !o.of.MatchString(c.name) })
}

// groups are those that are to be measured.
func (o *options) groups() []group {
	return slices.DeleteFunc(slices.Clone(groups), func(g group) bool { return !o.only.MatchString(g.name) })
}

// announce says what is going to be done and how long that takes.
func (o *options) announce(w io.Writer) {
	var sum time.Duration
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, g := range o.groups() {
		takes := g.takes(o)
		sum += takes
		fmt.Fprintf(table, "%s\t%s\t%s\n", g.name, about(takes), g.about)
	}
	table.Flush()
	fmt.Fprintf(w, "about %s where guests are emulated on two processors; with KVM a fraction of it\n", about(sum))
}

// about is a duration for a person.
func about(d time.Duration) string {
	if d < 90*time.Second {
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return fmt.Sprintf("%.0f min", d.Minutes())
}

// counts are numbers of containers, rising.
type counts []int

// String is as Set reads it.
func (c *counts) String() string {
	words := make([]string, 0, len(*c))
	for _, n := range *c {
		words = append(words, strconv.Itoa(n))
	}
	return strings.Join(words, ",")
}

// Set reads numbers with commas between them.
func (c *counts) Set(s string) error {
	var read counts
	for word := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 1 {
			return fmt.Errorf("want numbers like 1,10,100")
		}
		read = append(read, n)
	}
	slices.Sort(read)
	*c = slices.Compact(read)
	return nil
}
