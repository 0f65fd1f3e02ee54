package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hyperhq/hyper/test/bench/report"
	"github.com/hyperhq/hyper/test/harness"
)

var (
	parallelUp   = report.Quantity{Name: "ParallelUp", Title: "containers at once, until all have said a word", Unit: "ms"}
	parallelDown = report.Quantity{Name: "ParallelDown", Title: "containers at once, killed until nothing is left", Unit: "ms"}
)

// parallelRounds is how often so many are started: the fewer, the more often.
func parallelRounds(containers, n int) int { return min(max(10/containers, 1), n) }

func parallelTakes(o *options) (sum time.Duration) {
	for _, c := range o.chosen() {
		for _, containers := range o.counts {
			if c.joins(containers) && c.isIn("parallel") {
				sum += time.Duration(containers*parallelRounds(containers, o.n)) * c.start()
			}
		}
	}
	return sum
}

// measureParallel starts ever more containers at once, by requests of one process
// to containerd.
func measureParallel(ctx context.Context, b *bench) error {
	guards := map[*contestant]*guard{}
	for _, c := range b.contestants {
		guards[c] = &guard{}
	}
	for _, containers := range b.counts {
		name := fmt.Sprintf("parallel, %d at once", containers)
		err := b.byTurns(ctx, name, parallelRounds(containers, b.n), func(ctx context.Context, c *contestant) error {
			if !c.joins(containers) {
				return nil
			}
			return b.measureCrowd(ctx, c, containers, guards[c])
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// measureCrowd measures so many containers, if the memory holds them.
func (b *bench) measureCrowd(ctx context.Context, c *contestant, containers int, g *guard) error {
	fits, err := g.allows(containers)
	if err != nil {
		return err
	}
	if !fits {
		b.report.Note("%s: %d containers at once are not measured: less than %d MiB of memory would stay available.", c.name, containers, reserveMiB)
		return nil
	}
	up, down, err := crowd(ctx, c, containers, g)
	if err != nil {
		return fmt.Errorf("%d at once: %w", containers, err)
	}
	b.report.Of(parallelUp, c.name, containers).Add(milliseconds(up))
	b.report.Of(parallelDown, c.name, containers).Add(milliseconds(down))
	return nil
}

// crowd starts containers at once, and ends them at once.
func crowd(ctx context.Context, c *contestant, containers int, g *guard) (up, down time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	before, err := availableMiB()
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	leave := make(chan struct{})
	upErrors, downErrors := make(chan error, containers), make(chan error, containers)
	for range containers {
		go func() { downErrors <- member(ctx, c, upErrors, leave) }()
	}
	err = gather(upErrors, containers)
	up = time.Since(begin)
	if err == nil {
		err = g.note(before, containers)
	}
	var watch *harness.Watch
	if err == nil {
		watch, err = c.cell.Watch()
	}
	// Whatever happened, those that are there are ended.
	begin = time.Now()
	close(leave)
	err = errors.Join(err, gather(downErrors, containers))
	if watch != nil {
		defer watch.Close()
		if err == nil {
			err = watch.Wait(ctx)
		}
		down = time.Since(begin)
	}
	return up, down, err
}

// gather waits for so many results. Of what failed the first says why.
func gather(results <-chan error, n int) (first error) {
	var failures int
	for range n {
		if err := <-results; err != nil {
			failures++
			if first == nil {
				first = err
			}
		}
	}
	if failures > 0 {
		return fmt.Errorf("%d of %d failed, the first: %w", failures, n, first)
	}
	return nil
}

// member is one container of a crowd. It tells on up, once, when it has said a word
// or cannot, and is gone some time after leave is closed.
func member(ctx context.Context, c *contestant, up chan<- error, leave <-chan struct{}) error {
	const word = "here"
	return run(ctx, func(s *script) {
		var task *harness.Task
		err := attempt(func() {
			task = c.cell.Container(s, harness.Sh("echo "+word+"; exec sleep 100000")).Create(s, harness.IO{})
			task.Start(s)
			task.Expect(s, word)
		})
		up <- err
		<-leave
		if err != nil {
			return // the cleanup removes what there is
		}
		if err := task.Kill(s, 9, true); err != nil {
			s.Fatalf("killing: %w", err)
		}
		task.Wait(s, s.Patience())
		if _, err := task.TryDelete(s); err != nil {
			s.Fatalf("deleting: %w", err)
		}
		if err := task.Container.Remove(s.Context()); err != nil {
			s.Fatalf("removing: %w", err)
		}
	})
}
