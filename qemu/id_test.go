package qemu

import "testing"

func TestIDs(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "Z9": true, "disk12": true, "abcdefgh": true,
		"": false, "abcdefghi": false, "1a": false, "a-b": false, "a.b": false, "a,b": false, "a b": false, "ä": false, "a\x00": false,
	} {
		if got := isID(id, 8); got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
}
