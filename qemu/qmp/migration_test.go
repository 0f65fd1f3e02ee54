package qmp

import (
	"testing"

	"github.com/hyperhq/hyper/qemu/process"
)

func TestMigrationStatus(t *testing.T) {
	for _, tc := range []struct{ event, data, want string }{
		{"MIGRATION", `{"status": "completed"}`, MigrationCompleted},
		{"MIGRATION", `{"status": "failed", "more": 1}`, MigrationFailed},
		{"MIGRATION", `{"status": 3}`, ""},
		{"MIGRATION", ``, ""},
		{"STOP", `{"status": "completed"}`, ""},
	} {
		if got := MigrationStatus(Event{Name: tc.event, Data: []byte(tc.data)}); got != tc.want {
			t.Errorf("%s %s: %q, want %q", tc.event, tc.data, got, tc.want)
		}
	}
}

func FuzzMigrationStatus(f *testing.F) {
	f.Add([]byte(`{"status": "completed"}`))
	f.Add([]byte(`{"status": "\u001b[2J"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got := MigrationStatus(Event{Name: "MIGRATION", Data: data})
		if len(got) > 2*maxText || got != process.Printable(got) {
			t.Errorf("%q gives %q", data, got)
		}
	})
}
