package sandbox

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// MaxSpec bounds config.json, in bytes: what fits in a message to the agent.
const MaxSpec = 3 << 20

// readSpec reads a bundle's config.json. Errors name the file and are
// errdefs.ErrNotFound or errdefs.ErrInvalidArgument.
func readSpec(bundle string) (*specs.Spec, error) {
	path := filepath.Join(bundle, "config.json")
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("the bundle has no configuration: %w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the bundle's configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSpec+1))
	if err != nil {
		return nil, fmt.Errorf("reading the bundle's configuration: %w", err)
	}
	if len(data) > MaxSpec {
		return nil, fmt.Errorf("%s is larger than %d bytes: %w", path, MaxSpec, errdefs.ErrInvalidArgument)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("%s is not an OCI configuration: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return &spec, nil
}
