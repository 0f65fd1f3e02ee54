package main

import (
	"context"
	"time"

	"github.com/hyperhq/hyper/test/bench/report"
	"github.com/hyperhq/hyper/test/harness"
)

var deleteAll = report.Quantity{Name: "Delete", Title: "delete of a task until nothing is left", Unit: "ms"}

func deleteTakes(o *options) time.Duration {
	return time.Duration(o.n) * o.starts(200*time.Millisecond)
}

// measureDelete measures from asking for a task's deletion, whose process has
// ended, until there is no process, bundle or mount of it.
func measureDelete(ctx context.Context, b *bench) error {
	return b.byTurns(ctx, "delete", b.n, func(ctx context.Context, c *contestant) error {
		return run(ctx, func(s *script) {
			task := c.cell.Container(s, sleeps).Create(s, harness.IO{})
			task.Start(s)
			if err := task.Kill(s, 9, true); err != nil {
				s.Fatalf("killing: %w", err)
			}
			task.Wait(s, harness.Patience)
			watch, err := c.cell.Watch()
			if err != nil {
				s.Fatalf("%w", err)
			}
			defer watch.Close()
			begin := time.Now()
			if _, err := task.TryDelete(s); err != nil {
				s.Fatalf("deleting: %w", err)
			}
			if err := watch.Wait(ctx); err != nil {
				s.Fatalf("deleting: %w", err)
			}
			b.report.Of(deleteAll, c.name, 0).Add(milliseconds(time.Since(begin)))
		})
	})
}
