package harness

import (
	"context"
	"time"
)

// Patience is how long one request may take. It is long because machines that
// run tests may be slow, and what has to be quick has its own bound in its test.
const Patience = 60 * time.Second

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
