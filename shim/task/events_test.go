package task

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/api/events"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder remembers events in the order in which they are published, one word
// each: topic, and whose.
type recorder struct {
	mu     sync.Mutex
	events []string
}

func (r *recorder) Publish(topic string, e proto.Message) {
	word := strings.TrimPrefix(topic, "/tasks/") + " "
	switch e := e.(type) {
	case *events.TaskExit:
		word += fmt.Sprintf("%s/%s=%d", e.ContainerID, e.ID, e.ExitStatus)
	case *events.TaskDelete:
		word += fmt.Sprintf("%s=%d", e.ContainerID, e.ExitStatus)
	case *events.TaskExecAdded:
		word += e.ContainerID + "/" + e.ExecID
	case *events.TaskExecStarted:
		word += e.ContainerID + "/" + e.ExecID
	case interface{ GetContainerID() string }:
		word += e.GetContainerID()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, word)
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.events...)
}

// want fails the test unless these are all events so far.
func (r *recorder) want(t *testing.T, want ...string) {
	t.Helper()
	got := r.all()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("events are\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}
