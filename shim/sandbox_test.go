package shim

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	api "github.com/containerd/containerd/api/runtime/task/v3"
)

// sandboxBundle makes the bundle of a pod of CRI: there is nothing in it.
func (s *site) sandboxBundle(id string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, "b", id)
	if err := os.MkdirAll(path, 0o700); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// joined makes the bundle of a container that has joined a sandbox without a
// start.
func (s *site) joined(id, address string) string {
	s.t.Helper()
	path := s.bundle(id, "")
	if err := os.WriteFile(filepath.Join(path, "bootstrap.json"), []byte(`{"version":3,"address":"`+address+`","protocol":"ttrpc"}`), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// createSandbox starts a shim for a sandbox and creates that.
func (s *site) createSandbox(bundle string) (address string, sandbox sandboxv1.TTRPCSandboxService) {
	s.t.Helper()
	address = s.mustStart(bundle)
	sandbox = sandboxv1.NewTTRPCSandboxClient(dial(s.t, address))
	_, err := sandbox.CreateSandbox(s.t.Context(), &sandboxv1.CreateSandboxRequest{SandboxID: filepath.Base(bundle), BundlePath: bundle})
	if err != nil {
		s.t.Fatal(err)
	}
	return address, sandbox
}

// awaitEnd fails the test unless the only server ends by itself.
func (s *site) awaitEnd(end func()) {
	s.t.Helper()
	server := s.server()
	end()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	if err := server.Wait(ctx); err != nil {
		s.t.Errorf("the server lives on: %v", err)
	}
}

func TestASandboxOutlivesItsContainers(t *testing.T) {
	s := newSite(t)
	pod := s.sandboxBundle("pod")
	address, sandbox := s.createSandbox(pod)
	container := s.joined("c", address)
	// What containerd does after a container: the task's Shutdown, then delete.
	if _, err := tasks(t, address).Shutdown(t.Context(), &api.ShutdownRequest{ID: "c"}); err != nil {
		t.Fatal(err)
	}
	s.delete(container)
	if _, err := sandbox.PingSandbox(t.Context(), &sandboxv1.PingRequest{SandboxID: "pod"}); err != nil {
		t.Fatalf("it ended with its container: %v", err)
	}
	s.awaitEnd(func() {
		if _, err := sandbox.ShutdownSandbox(t.Context(), &sandboxv1.ShutdownSandboxRequest{SandboxID: "pod"}); err != nil {
			t.Errorf("shutdown was not answered: %v", err)
		}
	})
	s.delete(pod)
	s.clean()
}

// TestDeleteOfALiveSandbox is what containerd does when it has lost the
// connection to a shim.
func TestDeleteOfALiveSandbox(t *testing.T) {
	s := newSite(t)
	pod := s.sandboxBundle("pod")
	s.createSandbox(pod)
	s.awaitEnd(func() { s.delete(pod) })
	s.clean()
}

// TestShutdownOfASandboxThatWasNotCreated is what a user does when containerd
// ended between the start of the shim and the creation of the sandbox.
func TestShutdownOfASandboxThatWasNotCreated(t *testing.T) {
	s := newSite(t)
	pod := s.sandboxBundle("pod")
	sandbox := sandboxv1.NewTTRPCSandboxClient(dial(t, s.mustStart(pod)))
	s.awaitEnd(func() {
		if _, err := sandbox.ShutdownSandbox(t.Context(), &sandboxv1.ShutdownSandboxRequest{SandboxID: "pod"}); err != nil {
			t.Errorf("shutdown was not answered: %v", err)
		}
	})
	s.delete(pod)
	s.clean()
}
