package harness

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"
)

// slownessVariable says by how much a machine is slower than those that the limits are
// for: a host that is emulated itself. See Slowly.
const slownessVariable = "HYPER_TEST_SLOWNESS"

// slowness is 1 unless the environment says more.
func slowness() time.Duration {
	if n, err := strconv.Atoi(os.Getenv(slownessVariable)); err == nil && n > 1 {
		return time.Duration(n)
	}
	return 1
}

// Slowly is a limit as it is on this machine.
func Slowly(limit time.Duration) time.Duration { return limit * slowness() }

// Patience is how long one request may take. It is long because machines that
// run tests may be slow, and what has to be quick has its own bound in its test.
const Patience = 2 * time.Minute

// Soon is how long a test waits for what follows from what it has done, such as a
// process's end from its being killed: it takes no time on an idle host, and some on one
// with other work. It is only as long as that when the test fails.
const Soon = 30 * time.Second

// Allow is what a limit that the subject of a test has to keep comes to on a host with
// more to do than these tests: longer by as much as there is more than twice as much to
// run as there are processors, and ten times at most. The load is that of the last minute.
func Allow(limit time.Duration) time.Duration {
	limit = Slowly(limit)
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return limit
	}
	return allow(limit, string(data), runtime.NumCPU())
}

func allow(limit time.Duration, loadavg string, processors int) time.Duration {
	var load float64
	if _, err := fmt.Sscan(loadavg, &load); err != nil {
		return limit
	}
	factor := min(max(load/float64(2*processors), 1), 10)
	return time.Duration(float64(limit) * factor)
}

// pace waits between two looks at what there is no event for. Most looks are at every
// process of the host: they take a tenth of one processor's time at most.
type pace struct{ begun time.Time }

// look begins a look.
func (p *pace) look() { p.begun = time.Now() }

// rest waits until the next look is due, or until ctx ends.
func (p *pace) rest(ctx context.Context) error {
	t := time.NewTimer(max(20*time.Millisecond, 9*time.Since(p.begun)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// patient is a T of which one request may take another time than Patience.
type patient interface{ Patience() time.Duration }

func patienceOf(t T) time.Duration {
	if p, ok := t.(patient); ok {
		return p.Patience()
	}
	return Slowly(Patience)
}

// request is the context of one request of t's.
func request(t T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), patienceOf(t))
}
