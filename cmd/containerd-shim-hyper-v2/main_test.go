package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestHeavyPackagesStayOut holds the shim to what it needs: there is one for each
// pod, it is executed three times for each container, and what is linked into it is
// initialised each time.
func TestHeavyPackagesStayOut(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("the go command lists the packages: ", err)
	}
	out, err := exec.Command("go", "list", "-deps", "-tags", "no_grpc", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	packages := strings.Fields(string(out))
	if !slices.Contains(packages, "github.com/hyperhq/hyper/shim") {
		t.Fatalf("these are not the shim's packages: %s", out)
	}
	for _, heavy := range []string{
		"google.golang.org/grpc", // but not its status and codes, which ttrpc speaks
		"net/http", "crypto/tls", "text/template", "html/template", "golang.org/x/net/trace",
	} {
		if slices.Contains(packages, heavy) {
			t.Errorf("the shim has %s: `go list -deps -json` tells by what", heavy)
		}
	}
}
