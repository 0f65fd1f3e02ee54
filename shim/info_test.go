package shim

import (
	"slices"
	"testing"

	"github.com/opencontainers/runc/libcontainer/specconv"
)

// TestMountOptions compares those that are told with those that the guest knows.
func TestMountOptions(t *testing.T) {
	told, known := mountOptions(), specconv.KnownMountOptions()
	for _, o := range told {
		if !slices.Contains(known, o) {
			t.Errorf("the guest does not know %q", o)
		}
	}
	for _, o := range known {
		if !slices.Contains(told, o) {
			t.Errorf("%q is not told", o)
		}
	}
}
