package cri

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hyperhq/hyper/test/harness"
)

// testDocumented compares what the documentation tells to write into containerd's
// configuration, and the name that its RuntimeClass has for kubelet to ask for pods by, with
// what all tests here run with and ask by.
func testDocumented(t *testing.T, n *node) {
	documents := []string{"README.md"}
	if n.options.CRI.Sandboxer == harness.SandboxerShim {
		documents = append(documents, "docs/operations.md")
	}
	has := make(map[string]any)
	readTOML(t, readFile(t, filepath.Join(n.cell.Dir, "config.toml")), has)
	for _, name := range documents {
		blocks := regexp.MustCompile("(?ms)^```toml\n(.*?)^```").FindAllStringSubmatch(readFile(t, filepath.Join("../..", name)), -1)
		if len(blocks) != 1 {
			t.Fatalf("%s has %d blocks of configuration, want one", name, len(blocks))
		}
		told := make(map[string]any)
		readTOML(t, blocks[0][1], told)
		if !contains(has, told) {
			t.Errorf("the tests' containerd has not what %s says:\n%s", name, blocks[0][1])
		}
	}
	handler := regexp.MustCompile(`(?m)^kind: RuntimeClass\n(?:.*\n)*?handler: (.*)$`).FindStringSubmatch(readFile(t, "../../README.md"))
	if handler == nil {
		t.Fatal("README.md has no RuntimeClass")
	}
	if handler[1] != n.cell.Handler() {
		t.Errorf("the handler of the RuntimeClass is %s, the tests ask by %s", handler[1], n.cell.Handler())
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func readTOML(t *testing.T, text string, into map[string]any) {
	t.Helper()
	if err := toml.NewDecoder(strings.NewReader(text)).Decode(&into); err != nil {
		t.Fatalf("reading %s: %v", text, err)
	}
}

// contains says whether a table has all that another has.
func contains(table, part map[string]any) bool {
	for key, want := range part {
		got, ok := table[key]
		if !ok {
			return false
		}
		below, isTable := want.(map[string]any)
		if has, ok := got.(map[string]any); isTable && ok {
			if !contains(has, below) {
				return false
			}
		} else if !reflect.DeepEqual(got, want) {
			return false
		}
	}
	return true
}

// testFeatures asks what the runtime can do: kubelet makes no pod with a user namespace,
// and no mount that is read-only in all its parts, by a runtime that does not say so.
func testFeatures(t *testing.T, n *node) {
	r, err := n.runtime.Status(t.Context(), &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range r.RuntimeHandlers {
		if h.Name != n.cell.Handler() {
			continue
		}
		if !h.GetFeatures().GetUserNamespaces() || !h.GetFeatures().GetRecursiveReadOnlyMounts() {
			t.Errorf("the runtime's features are told as %v", h.Features)
		}
		return
	}
	t.Errorf("the runtime is not among %v", r.RuntimeHandlers)
}
