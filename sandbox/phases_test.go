package sandbox

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

func TestAGuestsPhasesAreItsOwnFields(t *testing.T) {
	p := newPhases()
	p.guest([]*agentv1.Phase{
		{Name: "init", AtUs: 1500},
		{Name: "cold_start", AtUs: 1 << 63},
		{Name: ""},
		{Name: "x level=error msg"},
		{Name: "line\nline"},
		{Name: strings.Repeat("a", maxPhaseName+1)},
	})
	fields := p.fields()
	if len(fields) != 3 || fields["guest_init_at_ms"] != 1.5 || fields["guest_cold_start_at_ms"] == nil {
		t.Errorf("the fields are %v", fields)
	}
}

// FuzzAnswers decodes what an agent may answer as the host does.
func FuzzAnswers(f *testing.F) {
	for _, m := range []proto.Message{
		&agentv1.ConfigureResponse{AgentVersion: "1", KernelRelease: "6.12", Phases: []*agentv1.Phase{{Name: "init", AtUs: 1}}},
		&agentv1.Exit{Status: 256, AgoUs: 1 << 63, StdoutBytes: 1 << 63},
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var configured agentv1.ConfigureResponse
		if proto.Unmarshal(data, &configured) == nil {
			checkPhases(t, configured.GetPhases())
		}
		var exit agentv1.Exit
		if proto.Unmarshal(data, &exit) == nil {
			now := time.Now()
			if e := validExit(&exit, now); e.Status > maxExitStatus || e.At.After(now) || now.Sub(e.At) > maxExitAge {
				t.Fatalf("%v is believed to be %+v", &exit, e)
			}
		}
	})
}

func checkPhases(t *testing.T, list []*agentv1.Phase) {
	t.Helper()
	p := newPhases()
	p.guest(list)
	if len(p.steps) > maxGuestPhases {
		t.Fatalf("%d phases", len(p.steps))
	}
	for name, ms := range p.steps {
		if strings.ContainsAny(name, " =\"\n") || ms < 0 {
			t.Fatalf("a phase %q at %v", name, ms)
		}
	}
}
