package main

import (
	"context"
	"fmt"
	"time"

	"github.com/hyperhq/hyper/test/bench/report"
	"github.com/hyperhq/hyper/test/harness"
)

var (
	execWhole  = report.Quantity{Name: "Exec", Title: "exec of `true` in a container that runs", Unit: "ms"}
	stdoutRate = report.Quantity{Name: "Stdout", Title: "standard output", Unit: "MB/s"}
)

func execTakes(o *options) time.Duration {
	return o.starts(time.Duration(execRounds*o.n) * 70 * time.Millisecond)
}

func stdoutTakes(o *options) time.Duration {
	return o.starts(time.Duration(stdoutRounds(o)) * time.Second)
}

// execRounds is how many there are to each of the others': they are quick.
const execRounds = 3

// measureExec measures from asking for a process to the end of it.
func measureExec(ctx context.Context, b *bench) error {
	return b.inside(ctx, "exec", execRounds*b.n, func(s *script, c *contestant, task *harness.Task) {
		begin := time.Now()
		if r := task.Do(s, "true"); r.Status != 0 {
			s.Fatalf("exec of true: %+v", r)
		}
		b.report.Of(execWhole, c.name, 0).Add(milliseconds(time.Since(begin)))
	})
}

func stdoutRounds(o *options) int { return max(o.n/3, 1) }

// measureStdout measures the time that many bytes take through the task's fifo.
func measureStdout(ctx context.Context, b *bench) error {
	const flood, block = 64 << 20, 64 << 10
	dd := []string{"dd", "if=/dev/zero", fmt.Sprintf("bs=%d", block), fmt.Sprintf("count=%d", flood/block)}
	return b.inside(ctx, "stdout", stdoutRounds(b.options), func(s *script, c *contestant, task *harness.Task) {
		var got counter
		p := task.Exec(s, harness.Command{Args: dd}, harness.IO{Stdout: &got})
		begin := time.Now()
		p.Start(s)
		if r := p.Finish(s); r.Status != 0 || got != flood {
			s.Fatalf("%d bytes of %d came: %+v", got, flood, r)
		}
		b.report.Of(stdoutRate, c.name, 0).Add(flood / 1e6 / time.Since(begin).Seconds())
	})
}

// inside measures by turns in a container of each contestant, which lives as long.
func (b *bench) inside(ctx context.Context, name string, rounds int, once func(*script, *contestant, *harness.Task)) error {
	tasks := map[*contestant]*harness.Task{}
	return run(ctx, func(s *script) {
		measure := func(_ context.Context, c *contestant) error {
			return attempt(func() {
				if tasks[c] == nil {
					tasks[c] = c.cell.Container(s, sleeps).Create(s, harness.IO{})
					tasks[c].Start(s)
					// The first exec has caches to fill.
					if r := tasks[c].Do(s, "true"); r.Status != 0 {
						s.Fatalf("exec of true: %+v", r)
					}
				}
				once(s, c, tasks[c])
			})
		}
		if err := b.byTurns(ctx, name, rounds, measure); err != nil {
			s.Fatalf("%w", err)
		}
		for _, c := range b.contestants {
			if task := tasks[c]; task != nil {
				b.report.Of(shimWorked, c.name, 0).Add(c.shimMemory(s, task))
			}
		}
	})
}

// sleeps makes a container do nothing, for longer than a benchmark.
var sleeps = harness.Args("sleep", "100000")

// counter counts bytes.
type counter int

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}
