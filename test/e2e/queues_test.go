package e2e

import (
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/traffic"
)

// testQueues gives a machine of two processors a card with a queue for each, and has
// several connections carry traffic at the same time.
func testQueues(t *testing.T, c *harness.Cell) {
	withoutTemplates(t, c)
	outside, ns := given(t)
	task := c.Container(t, inNetwork(ns), harness.Annotation(hyperAnnotation+"vcpus", "2"), harness.Args("probe", "serve", ":7010")).Create(t, harness.IO{})
	task.Start(t)
	task.Expect(t, "serving\n")
	r := task.Shell(t, "nproc; ls /sys/class/net/eth7/queues")
	if want := "2\nrx-0\nrx-1\ntx-0\ntx-1\n"; r.Stdout != want {
		t.Errorf("the guest's processors and queues are %+v, want %q", r, want)
	}
	const connections, size = 4, 8 << 20
	for name, transfer := range map[string]func(string, int64, time.Duration) error{"from": traffic.Fetch, "to": traffic.Deliver} {
		var all errgroup.Group
		for range connections {
			all.Go(func() error {
				return outside.Do(func() error { return transfer("10.99.0.2:7010", size, harness.Patience) })
			})
		}
		if err := all.Wait(); err != nil {
			t.Errorf("%d connections %s the container: %v", connections, name, err)
		}
	}
}
