package pool

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWanted(t *testing.T) {
	now := time.Now()
	l := Limits{Max: 3, Window: time.Minute}
	for name, c := range map[string]struct {
		ago    []time.Duration // of starts, the oldest first
		making time.Duration
		failed time.Duration // ago; 0 is never
		want   int
	}{
		"nothing":                 {want: 0},
		"one start":               {ago: []time.Duration{time.Second}, want: 0},
		"two":                     {ago: []time.Duration{20 * time.Second, time.Second}, want: 1},
		"one of two long ago":     {ago: []time.Duration{2 * time.Minute, time.Second}, want: 0},
		"as often as one is made": {ago: []time.Duration{8 * time.Second, 4 * time.Second, 0}, making: 4 * time.Second, want: 1},
		"twice as often":          {ago: []time.Duration{8 * time.Second, 4 * time.Second, 0}, making: 8 * time.Second, want: 2},
		"much more often":         {ago: []time.Duration{3 * time.Second, 2 * time.Second, time.Second}, making: time.Minute, want: 3},
		"at once":                 {ago: []time.Duration{time.Second, time.Second}, want: 3},
		"of a clock set back":     {ago: []time.Duration{time.Second, -time.Hour}, want: 0},
		"failed":                  {ago: []time.Duration{9 * time.Second, time.Second}, failed: time.Minute, want: 0},
		"failed long ago":         {ago: []time.Duration{9 * time.Second, time.Second}, failed: time.Hour, want: 1},
	} {
		h := history{Making: c.making}
		for _, ago := range c.ago {
			h.Starts = append(h.Starts, now.Add(-ago))
		}
		if c.failed != 0 {
			h.Failed = now.Add(-c.failed)
		}
		if got := h.wanted(now, l); got != c.want {
			t.Errorf("%s: %d are wanted, not %d", name, got, c.want)
		}
	}
}

func TestHistoryIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "starts")
	var h history
	now := time.Now()
	for i := range 3 * maxStarts {
		h.note(now.Add(time.Duration(i)*time.Millisecond), time.Hour)
	}
	if err := h.write(path); err != nil {
		t.Fatal(err)
	}
	got, err := readHistory(path)
	if err != nil || len(got.Starts) != maxStarts {
		t.Fatalf("%d starts are remembered, %v", len(got.Starts), err)
	}
	if last := got.Starts[maxStarts-1]; !last.Equal(h.Starts[maxStarts-1]) {
		t.Errorf("the last is of %v", last)
	}
	if !got.empty(now.Add(2*time.Hour), time.Hour) || got.empty(now.Add(time.Second), time.Hour) {
		t.Error("what is old is remembered, or what is not is forgotten")
	}
	for name, text := range map[string]string{"damaged": "{", "long": string(make([]byte, maxHistory+1))} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readHistory(path); err != nil || len(got.Starts) != 0 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
