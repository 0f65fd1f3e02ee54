package harness

import (
	"context"
	"os"
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
var Patience = Slowly(60 * time.Second)

// patient is a T of which one request may take another time than Patience.
type patient interface{ Patience() time.Duration }

func patienceOf(t T) time.Duration {
	if p, ok := t.(patient); ok {
		return p.Patience()
	}
	return Patience
}

// request is the context of one request of t's.
func request(t T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), patienceOf(t))
}
