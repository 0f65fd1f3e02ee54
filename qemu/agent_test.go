package qemu

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	agentchannel "github.com/hyperhq/hyper/proto/channel"
)

// TestAgentAnswers boots what `make` built, both kernels on both machines, until
// the agent answers the host's greeting.
func TestAgentAnswers(t *testing.T) {
	dir := os.Getenv(outputEnv)
	if dir == "" {
		t.Skipf("%s does not name the output of `make`: there is no guest to boot", outputEnv)
	}
	for _, kernel := range []string{"hyperkernel", "cloud"} {
		t.Run(kernel, func(t *testing.T) {
			files := filepath.Join(dir, "share/hyper", kernel)
			if _, err := os.Stat(filepath.Join(files, "vmlinux")); err != nil {
				t.Skipf("this kernel is not built: %v", err)
			}
			machines(t, func(t *testing.T, d *Driver) {
				spec := goodSpec(t)
				spec.MemoryMiB = 256
				spec.VCPUs = 2
				spec.Kernel = filepath.Join(files, "vmlinux")
				spec.Image = filepath.Join(files, "initrd.img")
				begin := time.Now()
				vm := start(t, d, spec)
				conn, err := vm.Channel(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
				defer cancel()
				session, err := agentchannel.Connect(ctx, conn)
				if err != nil {
					t.Fatalf("%v\n%s", err, vm.Log())
				}
				t.Logf("the agent answered after %v", time.Since(begin))
				if err := session.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
