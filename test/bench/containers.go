package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// contestant is a runtime in a containerd of its own.
type contestant struct {
	name string
	cell *harness.Cell
}

// runs measures `ctr run --rm … true`, from ctr's start to its end.
func (b *bench) runs(ctx context.Context, n int) error {
	series := b.series("ctr run --rm … true", "ms")
	for i := range n + 1 {
		for j, c := range b.contestants {
			id, err := c.cell.NewID()
			if err != nil {
				return err
			}
			begin := time.Now()
			out, err := c.cell.Ctr(ctx, "run", "--rm", "--runtime", c.cell.Runtime, image.Name, id, "true")
			if err != nil {
				return fmt.Errorf("ctr run by %s: %w: %s", c.name, err, out)
			}
			// The first warms the host's caches.
			if i > 0 {
				series[j].add(milliseconds(time.Since(begin)))
			}
		}
	}
	b.report.add(series[0], series[1])
	return nil
}

// inside measures what happens in a container that runs.
func (b *bench) inside(t *script, execs, floods int) {
	const flood = 64 << 20
	var tasks []*harness.Task
	for _, c := range b.contestants {
		task := c.cell.Container(t, harness.Args("sleep", "100000")).Create(t, harness.IO{})
		task.Start(t)
		tasks = append(tasks, task)
	}
	series := b.series("exec … true", "ms")
	for i := range execs + 2 {
		for j, task := range tasks {
			begin := time.Now()
			if r := task.Do(t, "true"); r.Status != 0 {
				t.Fatalf("exec: %+v", r)
			}
			if i > 1 {
				series[j].add(milliseconds(time.Since(begin)))
			}
		}
	}
	b.report.add(series[0], series[1])

	series = b.series("standard output", "MB/s")
	for range floods {
		for j, task := range tasks {
			count := &counter{}
			p := task.Exec(t, harness.Command{Args: []string{"dd", "if=/dev/zero", "bs=64k", fmt.Sprintf("count=%d", flood>>16)}}, harness.IO{Stdout: count})
			begin := time.Now()
			p.Start(t)
			if r := p.Finish(t); r.Status != 0 || count.n != flood {
				t.Fatalf("%d bytes of %d: %+v", count.n, flood, r)
			}
			series[j].add(flood / 1e6 / time.Since(begin).Seconds())
		}
	}
	b.report.add(series[0], series[1])

	series = b.series("memory of the shim after that (PSS)", "MB")
	for j, task := range tasks {
		series[j].add(pss(t, b.contestants[j].shim(t, task).PID))
	}
	b.report.add(series[0], series[1])
}

// series makes one for each contestant.
func (b *bench) series(name, unit string) []*Series {
	var all []*Series
	for _, c := range b.contestants {
		all = append(all, &Series{Name: name + ": " + c.name, Unit: unit})
	}
	return all
}

// counter counts bytes.
type counter struct{ n int }

func (c *counter) Write(b []byte) (int, error) {
	c.n += len(b)
	return len(b), nil
}

var _ io.Writer = (*counter)(nil)
