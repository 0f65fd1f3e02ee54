package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// waiting are the sockets at which machines of the cell's pool wait.
func waiting(t *testing.T, c *harness.Cell) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(c.Dir, "run/pool/*/*.sock"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func testPoolTrial(t *testing.T, c *harness.Cell) {
	withTemplates(t, c)
	if err := c.DropIn("50-pool.toml", "[pool]\nenable = true\nidle_seconds = 100\n[sandbox]\ndebug=true\n"); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		ready := len(waiting(t, c))
		logged := c.LogSize()
		id, _ := c.NewID()
		begin := time.Now()
		out, err := c.Ctr(t.Context(), "run", "--rm", "--runtime", c.Runtime, image.Name, id, "echo", "hello")
		took := time.Since(begin)
		data, _ := c.LogFrom(logged)
		line := ""
		for l := range strings.Lines(string(data)) {
			if strings.Contains(l, "TRIAL") || strings.Contains(l, "guest is ready") || strings.Contains(l, "ahead") || strings.Contains(l, "on disks") || strings.Contains(l, "begins") || strings.Contains(l, "is done") {
				line += l
			}
		}
		t.Logf("%d: %d waiting, %v %q %v\n%s", i, ready, took, out, err, line)
		harness.Eventually(t, time.Minute, func() error {
			if builders := c.Builders(); len(builders) > 0 {
				return fmt.Errorf("builders %v", builders)
			}
			return nil
		})
		if i >= 2 {
			harness.Eventually(t, time.Minute, func() error {
				if len(waiting(t, c)) == 0 {
					return fmt.Errorf("none waits")
				}
				return nil
			})
			starts, _ := filepath.Glob(filepath.Join(c.Dir, "run/pool/*/*"))
			t.Log(starts)
		}
	}
}
