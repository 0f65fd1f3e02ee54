package sandbox

import (
	"errors"
	"testing"
)

// TestAFailedStartIsNoMachine has many wait for a machine whose start fails.
func TestAFailedStartIsNoMachine(t *testing.T) {
	why := errors.New("no")
	for range 300 {
		g := newGuest(&Sandbox{}, hardware{})
		told := make(chan error)
		for range 4 {
			go func() { told <- g.awaitPlugs(t.Context()) }()
		}
		g.fail(why)
		for range 4 {
			if err := <-told; !errors.Is(err, why) {
				t.Fatalf("it is told of %v", err)
			}
		}
	}
}
