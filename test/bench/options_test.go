package main

import (
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "small.toml")
	if err := os.WriteFile(file, []byte("[sandbox]\nmemory_mib = 128\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	o, err := parse([]string{"-n", "5", "-only", "run|exec", "-counts", "10,1, 10", "-with", "small=" + file}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.n != 5 || !slices.Equal(o.counts, counts{1, 10}) {
		t.Errorf("-n is %d and -counts %v", o.n, o.counts)
	}
	var names []string
	for _, g := range o.groups() {
		names = append(names, g.name)
	}
	if !slices.Equal(names, []string{"run", "exec"}) {
		t.Errorf("the groups are %q", names)
	}
	if len(o.extra) != 1 || o.extra[0].name != "small" || !strings.Contains(o.extra[0].config, "128") || !o.extra[0].isHyper() {
		t.Errorf("the further contestants are %+v", o.extra)
	}
}

func TestParseRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"-n", "0"}, {"-only", "("}, {"-of", "("}, {"-of", "nothing-like-it"}, {"-only", "nothing-like-it"}, {"-counts", "1,x"}, {"-counts", "0"}, {"-deep", "5"},
		{"-with", "file"}, {"-with", "Name=" + file}, {"-with", "runc=" + file}, {"-with", "a=" + file + ".none"},
		{"-with", "a=" + file, "-with", "a=" + file}, {"run"},
	} {
		var said strings.Builder
		if _, err := parse(args, &said); err == nil || said.Len() == 0 {
			t.Errorf("%q: error %v, and %q for the user", args, err, said.String())
		}
	}
}

func TestHelpNamesEverything(t *testing.T) {
	var said strings.Builder
	if _, err := parse([]string{"-help"}, &said); !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("-help: %v", err)
	}
	for _, g := range groups {
		if !strings.Contains(said.String(), g.name+" ") {
			t.Errorf("the help does not name the group %s", g.name)
		}
	}
	for _, c := range contestants {
		if !strings.Contains(said.String(), c.about) {
			t.Errorf("the help does not name the contestant %s", c.name)
		}
	}
}

// What `make bench` promises of itself.
func TestDefaults(t *testing.T) {
	o, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.n < 30 {
		t.Errorf("the default is %d rounds, fewer than 30", o.n)
	}
	var sum time.Duration
	for _, g := range o.groups() {
		sum += g.takes(o)
	}
	if sum > 15*time.Minute {
		t.Errorf("the default takes %s, more than a quarter of an hour", sum)
	}
}

func TestParallelRounds(t *testing.T) {
	for _, test := range []struct{ containers, n, want int }{{1, 30, 10}, {1, 3, 3}, {5, 30, 2}, {20, 30, 1}, {100, 1, 1}} {
		if got := parallelRounds(test.containers, test.n); got != test.want {
			t.Errorf("%d containers are started %d times, want %d", test.containers, got, test.want)
		}
	}
}

func TestEstimatesFollowTheContestants(t *testing.T) {
	all, err := parse([]string{"-only", "run|parallel|memory"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	few, err := parse([]string{"-only", "run|parallel|memory", "-of", "runc"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range all.groups() {
		if g.takes(few) <= 0 || 2*g.takes(few) > g.takes(all) {
			t.Errorf("%s takes %s of runc alone and %s of all", g.name, g.takes(few), g.takes(all))
		}
	}
}

func TestJoins(t *testing.T) {
	c := contestant{most: 10}
	if !c.joins(10) || c.joins(11) {
		t.Error("a contestant of at most 10 does not join 10, or joins 11")
	}
	if c = (contestant{}); !c.joins(1000) {
		t.Error("a contestant without a bound does not join 1000")
	}
}
