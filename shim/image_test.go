package shim

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestBuildersRefuseWhatNoServerSends(t *testing.T) {
	long := `{"lower": ["` + strings.Repeat("x", maxRequest) + `"]}`
	for name, request := range map[string]string{"nothing": "", "no layers": "{}", "no JSON": "x", "another type": `{"lower": 3}`, "too long": long} {
		if err := buildImage(strings.NewReader(request)); err == nil {
			t.Errorf("%s: it built an image", name)
		}
	}
	if err := buildTemplate(strings.NewReader("x")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a template: %v", err)
	}
}
