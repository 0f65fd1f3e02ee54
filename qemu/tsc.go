package qemu

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// rdtsc reads the processor's time stamp counter.
func rdtsc() uint64

// tscSample is the time stamp counter at one moment.
type tscSample struct {
	counter uint64
	at      time.Time
}

func sampleTSC() tscSample {
	return tscSample{counter: rdtsc(), at: time.Now()}
}

// minTSCInterval is how far apart two samples must be: reading both clocks is
// good to well under a microsecond, so the frequency to better than 0.1 %. The
// guest's kernel wants 1 %, and refines it where the machine has another clock.
const minTSCInterval = time.Millisecond

// tscKHz returns the frequency of the time stamp counter in kHz as it went since
// the sample, or 0 if that is not known.
//
// An emulated guest reads the host's counter, but has no clock worth the name to
// calibrate it with: QEMU's timers are late whenever the host is busy. Calibration
// fails or takes its time, and sometimes never ends on a microvm.
func (s tscSample) tscKHz() uint64 {
	if b, err := os.ReadFile("/sys/devices/system/cpu/cpu0/tsc_freq_khz"); err == nil {
		if khz, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32); err == nil && khz > 0 {
			return khz
		}
	}
	now := sampleTSC()
	elapsed := now.at.Sub(s.at)
	if elapsed < minTSCInterval || now.counter <= s.counter {
		return 0
	}
	return uint64(float64(now.counter-s.counter) / float64(elapsed.Nanoseconds()) * 1e6)
}
