package e2e

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperhq/hyper/test/harness"
)

// testHyperctl looks at a running sandbox from the host.
func testHyperctl(t *testing.T, c *harness.Cell) {
	before := time.Now()
	task := running(t, c)
	var all []struct {
		State, Namespace, Sandbox, From string
		Ready                           time.Time
		Phases                          map[string]float64 `json:"phases_ms"`
		Processes                       []struct {
			Name string
			PID  int
			PSS  uint64 `json:"pss_bytes"`
		}
	}
	if err := json.Unmarshal([]byte(hyperctl(t, c, "list", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 {
		t.Fatalf("there are %+v", all)
	}
	s := all[0]
	if s.State != "running" || s.Namespace != c.Namespace || s.Sandbox != task.Container.ID || (s.From != "boot" && s.From != "template") {
		t.Errorf("it shows %+v", s)
	}
	if s.Ready.Before(before) || s.Ready.After(time.Now()) {
		t.Errorf("the guest answered at %v, after %v", s.Ready, before)
	}
	steps := s.Phases["machine"] + s.Phases["agent"] + s.Phases["configured"]
	if whole := s.Phases["boot"]; s.Phases["machine"] <= 0 || steps > whole || whole > float64(time.Since(before).Milliseconds()) {
		t.Errorf("the phases are %v", s.Phases)
	}
	for _, p := range s.Processes {
		if p.Name == "qemu" && p.PSS < 10<<20 || p.PSS == 0 {
			t.Errorf("process %s uses %d bytes", p.Name, p.PSS)
		}
	}
	if len(s.Processes) < 2 {
		t.Errorf("its processes are %+v", s.Processes)
	}
	if got := hyperctl(t, c, "metrics"); !strings.Contains(got, `hyper_sandboxes{state="running"} 1`) {
		t.Errorf("the metrics are\n%s", got)
	}
}

func hyperctl(t *testing.T, c *harness.Cell, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	var out, errs strings.Builder
	cmd := c.Command(ctx, filepath.Join(c.Parts.Output, "bin", "hyperctl"), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := c.RunCommand(cmd); err != nil {
		t.Fatalf("hyperctl %v: %v: %s", args, err, errs.String())
	}
	return out.String()
}
