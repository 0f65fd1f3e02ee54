package pool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"time"
)

const (
	// maxStarts is how many starts of a key are remembered.
	maxStarts = 32
	// maxHistory bounds the file of them, in bytes.
	maxHistory = 64 << 10
	// usualMaking is how long the making of a machine is taken to last until one was
	// made.
	usualMaking = 2 * time.Second
)

// Limits bound how many machines wait for a key.
type Limits struct {
	// Max is how many.
	Max int
	// Window is how long a start is remembered.
	Window time.Duration
}

// history is what is remembered of a key.
type history struct {
	// Starts are the times of starts, the oldest first.
	Starts []time.Time `json:"starts"`
	// Making is how long the making of a machine has lasted, zero if none was made yet.
	Making time.Duration `json:"making"`
	// Failed is when the making of one has failed, and Why.
	Failed time.Time `json:"failed,omitzero"`
	Why    string    `json:"why,omitempty"`
}

// failSpell is for how long after a failure none is made.
const failSpell = 10 * time.Minute

// recent are the starts that still count. What is ahead of now is of a clock that was
// set back since.
func (h *history) recent(now time.Time, window time.Duration) []time.Time {
	var list []time.Time
	for _, at := range h.Starts {
		if age := now.Sub(at); age >= 0 && age < window {
			list = append(list, at)
		}
	}
	return list
}

// note adds a start.
func (h *history) note(now time.Time, window time.Duration) {
	h.Starts = append(h.recent(now, window), now)
	h.Starts = h.Starts[max(0, len(h.Starts)-maxStarts):]
}

// wanted is how many machines should wait: none after one start alone, and then as many
// as are started while one is made.
func (h *history) wanted(now time.Time, l Limits) int {
	starts := h.recent(now, l.Window)
	if len(starts) < 2 || now.Sub(h.Failed) < failSpell {
		return 0
	}
	making := h.Making
	if making <= 0 {
		making = usualMaking
	}
	over := starts[len(starts)-1].Sub(starts[0])
	if over <= 0 {
		return l.Max
	}
	each := over / time.Duration(len(starts)-1)
	n := math.Ceil(float64(making) / float64(max(each, 1)))
	return int(min(max(n, 1), float64(l.Max)))
}

// empty says whether there is nothing to be remembered.
func (h *history) empty(now time.Time, window time.Duration) bool {
	return len(h.recent(now, window)) == 0 && now.Sub(h.Failed) >= failSpell
}

// readHistory reads a file of the history; what is missing or damaged is none.
func readHistory(path string) (*history, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() > maxHistory {
		return &history{}, nil
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read when pods were started: %w", err)
	}
	var h history
	if json.Unmarshal(data, &h) != nil {
		return &history{}, nil
	}
	return &h, nil
}

func (h *history) write(path string) error {
	data, err := json.Marshal(h)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note when pods were started: %w", err)
	}
	return nil
}
