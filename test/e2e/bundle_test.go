package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	"github.com/hyperhq/hyper/test/harness"
)

// testBadSpecification gives containerd specifications that no runtime can run.
// What is no object at all containerd itself refuses: see testBadBundle.
func testBadSpecification(t *testing.T, c *harness.Cell) {
	for name, spec := range map[string]string{
		"empty object":  `{}`,
		"wrong type":    `{"ociVersion": "1.0.2", "process": {"args": "true"}, "root": {"path": "rootfs"}}`,
		"no arguments":  `{"ociVersion": "1.0.2", "process": {"args": [], "cwd": "/"}, "root": {"path": "rootfs"}, "linux": {}}`,
		"relative cwd":  `{"ociVersion": "1.0.2", "process": {"args": ["true"], "cwd": "x"}, "root": {"path": "rootfs"}, "linux": {}}`,
		"no linux part": `{"ociVersion": "1.0.2", "process": {"cwd": "/"}, "root": {"path": "rootfs"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			c.CheckLeaks(t)
			container := c.ContainerWithSpec(t, []byte(spec))
			begin := time.Now()
			task, err := container.TryCreate(t, harness.IO{})
			if err == nil {
				err = task.TryStart(t)
			}
			if took := time.Since(begin); err == nil || took > harness.Allow(refusalLimit) {
				t.Errorf("after %v: %v", took, err)
			}
			t.Log(err)
		})
	}
}

// testBadBundle calls the shim as containerd does, with what containerd would
// not let through.
func testBadBundle(t *testing.T, c *harness.Cell) {
	for _, test := range []struct {
		name   string
		config *string // none if nil
		says   []string
	}{
		{"without config.json", nil, []string{"config.json"}},
		{"half a config.json", text(`{"ociVersion":`), []string{"config.json"}},
		{"an empty config.json", text(``), []string{"config.json"}},
		{"no process", text(`{"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": {}}`), []string{"process"}},
		{"not Linux", text(`{"ociVersion": "1.0.2", "process": {"args": ["x"], "cwd": "/"}, "root": {"path": "rootfs"}, "windows": {"layerFolders": ["x"]}}`), nil},
		{"far too large", text(`{"ociVersion": "1.0.2", "annotations": {"x": "` + strings.Repeat("x", 20<<20) + `"}}`), []string{"config.json"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.CheckLeaks(t)
			id, err := c.NewID()
			if err != nil {
				t.Fatal(err)
			}
			bundle := hostDir(t, c, map[string]string{"rootfs/file": "x"})
			if test.config != nil {
				if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(*test.config), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			begin := time.Now()
			err = createDirectly(t, c, bundle, id)
			if took := time.Since(begin); took > harness.Allow(refusalLimit) {
				t.Errorf("it took %v", took)
			}
			if err == nil {
				t.Fatal("the task was created")
			}
			t.Log(err)
			if errdefs.IsUnknown(err) && test.says != nil {
				t.Errorf("the kind of the error is not known: %v", err)
			}
			for _, part := range test.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q: %v", part, err)
				}
			}
		})
	}
}

func text(s string) *string { return &s }

// createDirectly starts a shim, creates a task, and cleans up, as containerd
// does; the error is that of the start or of the creation.
func createDirectly(t *testing.T, c *harness.Cell, bundle, id string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	defer func() {
		remove := c.ShimCommand(ctx, bundle, id, "-bundle", bundle, "delete")
		if err := c.RunCommand(remove); err != nil {
			t.Errorf("deleting: %v", err)
		}
	}()
	var stdout, stderr bytes.Buffer
	start := c.ShimCommand(ctx, bundle, id, "start")
	start.Stdout, start.Stderr = &stdout, &stderr
	if err := c.RunCommand(start); err != nil {
		return fmt.Errorf("%w: %s", err, stderr.String())
	}
	address := strings.TrimSpace(stdout.String())
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatalf("the shim says that it is at %q: %v", address, err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	tasks := taskapi.NewTTRPCTaskClient(client)
	_, err = tasks.Create(ctx, &taskapi.CreateTaskRequest{ID: id, Bundle: bundle})
	if err == nil {
		return nil
	}
	tasks.Shutdown(ctx, &taskapi.ShutdownRequest{ID: id})
	return errgrpc.ToNative(err)
}
