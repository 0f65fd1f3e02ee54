package qemu

import (
	"context"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

// rdtsc reads the processor's time stamp counter.
func rdtsc() uint64

// tscSample is the time stamp counter at one moment, give or take width/2.
type tscSample struct {
	counter, width uint64
	at             time.Time
}

const (
	// sampleTries is how often a sample is taken anew for a better one, and
	// sampleWidth, in counts, how good one is that is taken at once.
	sampleTries = 16
	sampleWidth = 4096
)

// sampleTSC reads both clocks. A process that gives way to others can lose the
// processor in between, for a second if it must be: so the counter is read on both
// sides, and the closest of some samples is taken.
func sampleTSC() tscSample {
	best := tscSample{width: math.MaxUint64}
	for range sampleTries {
		before := rdtsc()
		at := time.Now()
		width := rdtsc() - before
		if width < best.width {
			best = tscSample{counter: before + width/2, width: width, at: at}
		}
		if best.width <= sampleWidth {
			break
		}
	}
	return best
}

const (
	// minTSCInterval is how far apart two samples must be, and tscPrecision which part
	// of the interval they must be good to. The guest's kernel wants 1 %, and refines
	// it where the machine has another clock.
	minTSCInterval = time.Millisecond
	tscPrecision   = 1000
	// templateTSCInterval is for a machine that is saved: its clones live on what it
	// was told, for however long.
	templateTSCInterval = 100 * time.Millisecond
)

// tscKHz returns the frequency of the time stamp counter in kHz as it went since
// the sample, or 0 if that is not known.
//
// An emulated guest reads the host's counter, but has no clock worth the name to
// calibrate it with: QEMU's timers are late whenever the host is busy. Calibration
// fails or takes its time, and sometimes never ends on a microvm.
func (s tscSample) tscKHz() uint64 {
	if khz := hostTSCKHz(); khz != 0 {
		return khz
	}
	return s.until(sampleTSC())
}

// hostTSCKHz is the frequency that the host's kernel tells, or 0.
func hostTSCKHz() uint64 {
	b, err := os.ReadFile("/sys/devices/system/cpu/cpu0/tsc_freq_khz")
	if err != nil {
		return 0
	}
	khz, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	if err != nil {
		return 0
	}
	return khz
}

// until is the frequency between two samples, or 0 if they do not tell.
func (s tscSample) until(now tscSample) uint64 {
	elapsed := now.at.Sub(s.at)
	if elapsed < minTSCInterval || now.counter <= s.counter {
		return 0
	}
	counts := now.counter - s.counter
	if s.width > counts/tscPrecision || now.width > counts/tscPrecision {
		return 0
	}
	return uint64(float64(counts) / float64(elapsed.Nanoseconds()) * 1e6)
}

// awaitTSC waits until the interval since the sample is long enough for a template.
func (s tscSample) awaitTSC(ctx context.Context) error {
	wait := time.NewTimer(templateTSCInterval - time.Since(s.at))
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
