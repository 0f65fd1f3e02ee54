package record

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

func TestStartIsReadAsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), StartFile)
	if s, err := ReadStart(path); s != nil || err != nil {
		t.Errorf("a missing record is %+v, %v", s, err)
	}
	want := &Start{
		Namespace: "n", Sandbox: "s", From: Boot, Ready: time.Unix(1e9, 5e6).UTC(),
		Phases: map[string]float64{"boot": 700.5},
	}
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadStart(path); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("it is read as %+v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte(`{"namespace": "n`), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := ReadStart(path); err == nil {
		t.Errorf("half a record is read as %+v", s)
	}
}
