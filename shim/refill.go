package shim

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/config"
	"github.com/hyperhq/hyper/sandbox"
	"github.com/hyperhq/hyper/shim/pool"
)

// poolPlace is what a pod wants of the pool, as it goes from start to server and from
// there to those who wait.
type poolPlace struct {
	Key   string
	Wants sandbox.Wants
}

func (p poolPlace) String() string {
	text, err := json.Marshal(p)
	if err != nil {
		return "" // no such types are in it
	}
	return string(text)
}

func parsePoolPlace(text string) (p poolPlace, err error) {
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return p, fmt.Errorf("what is wanted of the pool, %q: %w", text, err)
	}
	return p, nil
}

// limitsOf are the operator's.
func limitsOf(c *config.Config) pool.Limits {
	return pool.Limits{Max: c.Pool.Max, Window: time.Duration(c.Pool.IdleSeconds) * time.Second}
}

// refillDelay is how long a pod that was started has the host's processors for itself,
// unless it ends before, as many do: its program, its output and who waits for that come
// first.
const refillDelay = time.Second

// refill takes note that a pod was started, and has another machine made for the next
// if pods are started often. It does not wait for that.
func (o *opener) refill(out *outside, c *config.Config) {
	if o.invocation.Pool == "" {
		return
	}
	o.refills.Go(func() {
		place, err := parsePoolPlace(o.invocation.Pool)
		if err == nil {
			err = refill(out, place, limitsOf(c), o.ending)
		}
		if err != nil {
			log.L.WithError(err).Warn("no machine is made ahead for the next pod")
		}
	})
}

func refill(out *outside, place poolPlace, l pool.Limits, ending <-chan struct{}) error {
	more, err := pool.New(runRoot(os.Getenv)).Note(place.Key, l)
	if err != nil || !more {
		return err
	}
	select {
	case <-ending:
	case <-time.After(refillDelay):
	}
	// It belongs to no pod yet, and has a mount namespace as a server has.
	parked := *out
	parked.invocation.ID = parkedID
	return parked.start(parkAction, place, unix.CLONE_NEWNS, out.mounts)
}
