package image

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os/exec"
	"testing"
)

func TestBuildIsDeterministic(t *testing.T) {
	if _, err := exec.LookPath("busybox"); err != nil {
		t.Skip("no busybox on this machine: install busybox-static")
	}
	first, err := Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	second, err := Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Archive, second.Archive) || first.ChainID != second.ChainID {
		t.Errorf("two builds differ: %x and %x", sha256.Sum256(first.Archive), sha256.Sum256(second.Archive))
	}
	if first.ChainID == fmt.Sprintf("sha256:%x", sha256.Sum256(nil)) {
		t.Error("the layer is empty")
	}
}
