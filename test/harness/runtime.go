package harness

import (
	"fmt"
	"os"
	"path/filepath"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Runtimes by the name that containerd knows them by.
const (
	RuntimeHyper = "io.containerd.hyper.v2"
	RuntimeRunc  = "io.containerd.runc.v2"
)

// DropIn writes a file beside the runtime's configuration that is read after it,
// and after those whose names come before.
func (c *Cell) DropIn(name, text string) error {
	file := c.dropIn(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

// DropInFor is DropIn for as long as a test runs.
func (c *Cell) DropInFor(t T, name, text string) {
	t.Helper()
	if err := c.DropIn(name, text); err != nil {
		t.Fatalf("configuring the runtime: %v", err)
	}
	t.Cleanup(func() { os.Remove(c.dropIn(name)) })
}

func (c *Cell) dropIn(name string) string { return filepath.Join(c.Dir, "hyper.toml.d", name) }

// UseOCIRuntime makes runc's shim call another program in the place of runc.
func (c *Cell) UseOCIRuntime(program string) error {
	options := &runcoptions.Options{BinaryName: program}
	value, err := proto.Marshal(options)
	if err != nil {
		return fmt.Errorf("encoding the options of runc's shim: %w", err)
	}
	c.runtimeOptions = &anypb.Any{TypeUrl: string(options.ProtoReflect().Descriptor().FullName()), Value: value}
	return nil
}
