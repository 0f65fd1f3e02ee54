package sandbox

import (
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/virtcontainers"
)

// guestVolumes is where the guest has what the agent makes for containers.
const guestVolumes = "/run/hyper/volumes"

// inspectSources looks at what a container binds. What is not there is found
// missing when it is bound.
func inspectSources(spec *specs.Spec, bundle string) map[string]virtcontainers.SourceKind {
	kinds := make(map[string]virtcontainers.SourceKind)
	for _, source := range virtcontainers.BindSources(spec, bundle) {
		info, err := os.Stat(source)
		switch {
		case err != nil:
		case info.IsDir():
			kinds[source] = virtcontainers.SourceDirectory
		case info.Mode().Type() == os.ModeSocket:
			kinds[source] = virtcontainers.SourceSocket
		}
	}
	return kinds
}
