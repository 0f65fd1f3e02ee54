package harness

import (
	"testing"
	"time"
)

func TestALimitIsLongerOnABusyHost(t *testing.T) {
	for _, c := range []struct {
		loadavg string
		want    time.Duration
	}{
		{"0.10 0.20 0.30 1/200 4711", time.Second},
		{"4.00 9.00 9.00 1/200 4711", time.Second},
		{"16.00 1.00 1.00 1/200 4711", 4 * time.Second},
		{"400.00 1.00 1.00 1/200 4711", 10 * time.Second},
		{"what", time.Second},
	} {
		if got := allow(time.Second, c.loadavg, 2); got != c.want {
			t.Errorf("one second with the load %q is %v, want %v", c.loadavg, got, c.want)
		}
	}
}
