package main

import (
	"fmt"
	"io"
	"time"
)

// progress tells who waits how far a group is.
type progress struct {
	out         io.Writer
	name        string
	done, total int
	begin, said time.Time
}

// every is how often there is a word.
const every = 15 * time.Second

// start begins a group of so many steps.
func (p *progress) start(name string, total int) {
	now := time.Now()
	p.name, p.done, p.total, p.begin, p.said = name, 0, total, now, now
	fmt.Fprintf(p.out, "%s: %d rounds\n", name, total)
}

// step notes that one more step is done.
func (p *progress) step() {
	p.done++
	now := time.Now()
	if now.Sub(p.said) < every && p.done < p.total {
		return
	}
	p.said = now
	gone := now.Sub(p.begin)
	if p.done >= p.total {
		fmt.Fprintf(p.out, "%s: done in %s\n", p.name, about(gone))
		return
	}
	left := gone / time.Duration(p.done) * time.Duration(p.total-p.done)
	fmt.Fprintf(p.out, "%s: %d of %d, about %s left\n", p.name, p.done, p.total, about(left))
}
