package main

import (
	"context"
	"time"
)

// group is what is measured together.
type group struct {
	name  string
	about string
	// takes is about how long it takes where guests are emulated.
	takes func(*options) time.Duration
	run   func(context.Context, *bench) error
	// machines says that it needs no containerd, but machines of its own.
	machines bool
}

// groups are in the order of measuring. Those with machines of their own are first:
// once there are containerds, this process reaps all children.
var groups = []group{
	{"boot", "a machine from its start to its agent's first word, beside the least that can be", bootTakes, measureBoot, true},
	{"run", "ctr run --rm … echo: first byte of output, whole command, phases of the start", runTakes, measureRun, false},
	{"exec", "a process added to a container that runs", execTakes, measureExec, false},
	{"stdout", "standard output of a container that writes as fast as it can", stdoutTakes, measureStdout, false},
	{"delete", "from deleting a task until no process, mount or bundle of it is left", deleteTakes, measureDelete, false},
	{"shim", "the shim by itself: its memory when new, the processor time that it takes to begin", shimTakes, measureShim, false},
	{"parallel", "many containers at once: until all have said a word, until all are gone", parallelTakes, measureParallel, false},
	{"memory", "what each further sandbox takes", memoryTakes, measureMemory, false},
}

// starts is about how long one start of every contestant takes, each with so much
// more, but of those that are in one group only.
func (o *options) starts(more time.Duration) time.Duration { return o.startsIn("", more) }

// startsIn is starts of a group's contestants.
func (o *options) startsIn(group string, more time.Duration) (sum time.Duration) {
	for _, c := range o.chosen() {
		if c.isIn(group) {
			sum += c.start() + more
		}
	}
	return sum
}

// start is about how long one takes where guests are emulated.
func (c *contestant) start() time.Duration { return time.Duration(c.seconds * float64(time.Second)) }
