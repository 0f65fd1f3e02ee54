package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// script lets the harness, which is made for tests, run outside of one.
type script struct {
	ctx      context.Context
	cleanups []func()
}

// failed is what Fatalf ends a script with.
type failed struct{ err error }

// run runs steps and then their cleanups; what Fatalf said is the error.
func run(ctx context.Context, steps func(*script)) error {
	s := &script{ctx: ctx}
	defer func() {
		for i := len(s.cleanups) - 1; i >= 0; i-- {
			s.cleanups[i]()
		}
	}()
	return attempt(func() { steps(s) })
}

// attempt runs steps of a script that goes on if they fail; what Fatalf said is
// the error.
func attempt(steps func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failed:
			err = r.err
		default:
			panic(r)
		}
	}()
	steps()
	return nil
}

// Helper does nothing: there is no line to report.
func (s *script) Helper() {}

// Logf writes to standard error.
func (s *script) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Fatalf ends the script. It is to be called by the goroutine that runs it.
func (s *script) Fatalf(format string, args ...any) { panic(failed{fmt.Errorf(format, args...)}) }

// Cleanup registers what is run at the end, the last first.
func (s *script) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Context is the script's.
func (s *script) Context() context.Context { return s.ctx }

// Patience is longer than a test's: a hundred machines start at once.
func (s *script) Patience() time.Duration { return 10 * time.Minute }
