package shim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
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

// shutdown is containerd's: it hangs up once it has the answer.
func shutdown(t *testing.T, client *ttrpc.Client, id string) {
	t.Helper()
	_, err := sandboxv1.NewTTRPCSandboxClient(client).ShutdownSandbox(t.Context(), &sandboxv1.ShutdownSandboxRequest{SandboxID: id})
	if err != nil {
		t.Errorf("shutdown was not answered: %v", err)
	}
	_ = client.Close()
}

// createSandbox starts a shim for a sandbox and creates that.
func (s *site) createSandbox(bundle string) (address string, client *ttrpc.Client) {
	s.t.Helper()
	address = s.mustStart(bundle)
	client = dial(s.t, address)
	_, err := sandboxv1.NewTTRPCSandboxClient(client).CreateSandbox(s.t.Context(), &sandboxv1.CreateSandboxRequest{SandboxID: filepath.Base(bundle), BundlePath: bundle})
	if err != nil {
		s.t.Fatal(err)
	}
	return address, client
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
	address, client := s.createSandbox(pod)
	container := s.joined("c", address)
	// What containerd does after a container: the task's Shutdown, then delete.
	joined := dial(t, address)
	if _, err := api.NewTTRPCTaskClient(joined).Shutdown(t.Context(), &api.ShutdownRequest{ID: "c"}); err != nil {
		t.Fatal(err)
	}
	_ = joined.Close()
	s.delete(container)
	if _, err := sandboxv1.NewTTRPCSandboxClient(client).PingSandbox(t.Context(), &sandboxv1.PingRequest{SandboxID: "pod"}); err != nil {
		t.Fatalf("it ended with its container: %v", err)
	}
	s.awaitEnd(func() { shutdown(t, client, "pod") })
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
	client := dial(t, s.mustStart(pod))
	s.awaitEnd(func() { shutdown(t, client, "pod") })
	s.delete(pod)
	s.clean()
}

// TestShutdownIsAnswered ends a sandbox that has nothing to stop any more, which
// is quick: the answer must come before the end.
func TestShutdownIsAnswered(t *testing.T) {
	s := newSite(t)
	for i := range 10 {
		pod := s.sandboxBundle(fmt.Sprint("pod", i))
		_, client := s.createSandbox(pod)
		id := filepath.Base(pod)
		_, err := sandboxv1.NewTTRPCSandboxClient(client).StopSandbox(t.Context(), &sandboxv1.StopSandboxRequest{SandboxID: id})
		if err != nil {
			t.Fatal(err)
		}
		shutdown(t, client, id)
		s.delete(pod)
	}
	s.clean()
}

// TestDeletesAtOnce is what containerd does when a sandbox's server has died: a
// delete for the sandbox and for each container, all at once.
func TestDeletesAtOnce(t *testing.T) {
	s := newSite(t)
	pod := s.sandboxBundle("pod")
	address, _ := s.createSandbox(pod)
	bundles := []string{pod}
	for i := range 5 {
		bundles = append(bundles, s.joined(fmt.Sprint("c", i), address))
	}
	if err := s.server().Kill(); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, b := range bundles {
		all.Go(func() {
			out, err := s.command(b, "delete").CombinedOutput()
			if err != nil {
				t.Errorf("delete in %s: %v: %s", filepath.Base(b), err, out)
			}
		})
	}
	all.Wait()
	s.clean()
}
