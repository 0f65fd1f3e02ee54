package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hyperhq/hyper/test/bench/report"
)

var (
	runFirstByte = report.Quantity{Name: "RunFirstByte", Title: "`ctr run --rm … echo` to the first byte of output", Unit: "ms"}
	runWhole     = report.Quantity{Name: "RunWhole", Title: "`ctr run --rm … echo`, whole command", Unit: "ms"}
)

func runTakes(o *options) time.Duration {
	return time.Duration(o.n) * o.startsIn("run", 100*time.Millisecond)
}

// measureRun measures `ctr run`, from ctr's start, and takes the phases of the
// starts from the runtimes' logs.
func measureRun(ctx context.Context, b *bench) error {
	logged := map[*contestant]int64{}
	for _, c := range b.contestants {
		logged[c] = c.cell.LogSize()
	}
	err := b.byTurns(ctx, "run", b.n, func(ctx context.Context, c *contestant) error {
		if err := c.await(ctx); err != nil {
			return err
		}
		first, whole, err := runOnce(ctx, b.work, c)
		if err != nil {
			return err
		}
		b.report.Of(runFirstByte, c.name, 0).Add(milliseconds(first))
		b.report.Of(runWhole, c.name, 0).Add(milliseconds(whole))
		return nil
	})
	if err != nil {
		return err
	}
	for _, c := range b.contestants {
		if err := b.addPhases(c, logged[c]); err != nil {
			return err
		}
	}
	return nil
}

// runOnce measures one `ctr run` of a container that says a word.
func runOnce(ctx context.Context, dir string, c *contestant) (first, whole time.Duration, err error) {
	const word = "word"
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd, err := c.ctrRun(ctx, dir, "echo", word)
	if err != nil {
		return 0, 0, err
	}
	var said firstWrite
	var complaints strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &complaints
	begin := time.Now()
	err = c.cell.RunCommand(cmd)
	whole = time.Since(begin)
	if err == nil && said.text.String() != word+"\n" {
		err = errors.New("the output is not what was written")
	}
	if err != nil {
		return 0, 0, fmt.Errorf("ctr run: %w: %q, %s", err, said.text.String(), complaints.String())
	}
	return said.at.Sub(begin), whole, nil
}

// firstWrite collects what is written and notes when it began.
type firstWrite struct {
	at   time.Time
	text strings.Builder
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.at.IsZero() {
		w.at = time.Now()
	}
	return w.text.Write(p)
}

// warmups is how often a contestant is started before anything is measured: the
// first has the host's caches to fill.
const warmups = 2

// settling is how often a contestant is started until it is settled.
const settling = 20

// warm starts a contestant until it is what it is in the long run.
func (b *bench) warm(ctx context.Context, c *contestant) error {
	for i := range settling {
		logged := c.cell.LogSize()
		// The first ones have nothing to wait for: a machine is made ahead after the
		// second, and of a template.
		if i >= settling/2 {
			if err := c.await(ctx); err != nil {
				return fmt.Errorf("warming up: %w", err)
			}
		}
		if _, _, err := runOnce(ctx, b.work, c); err != nil {
			return fmt.Errorf("warming up: %w", err)
		}
		settled, err := c.isSettled(logged)
		if err != nil || settled && i+1 >= warmups {
			return err
		}
	}
	return fmt.Errorf("warming up: after %d starts the log does not say %s", settling, c.settled)
}

// isSettled says whether the starts that were logged since are those of the long run.
func (c *contestant) isSettled(since int64) (bool, error) {
	if c.settled == "" {
		return true, nil
	}
	text, err := c.cell.LogFrom(since)
	if err != nil {
		return false, err
	}
	lines := startLines(text)
	for _, line := range lines {
		if !hasField(line, c.settled) {
			return false, nil
		}
	}
	return len(lines) > 0, nil
}
