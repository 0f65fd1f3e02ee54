package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	api "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/hyperhq/hyper/sandbox"
	"github.com/hyperhq/hyper/sandbox/cgroup"
	"github.com/hyperhq/hyper/sandbox/record"
	"github.com/hyperhq/hyper/shim/task"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// politeTimeout is what a server that lives has to remove a container.
	politeTimeout = 2 * time.Second
	// dyingTimeout is what processes that were killed have to be gone. The
	// last one takes the mounts with it, which waits for the host's disk; it
	// ends without us.
	dyingTimeout = 800 * time.Millisecond
	// killReserve is what is kept of delete's time to kill a server that ends
	// too slowly.
	killReserve = dyingTimeout + 200*time.Millisecond
)

// deleteTask is containerd's delete: it removes what is left of a container,
// and of its server when that is dead, ends, or can not be asked. It prints how
// the task ended, as far as that can be known.
func deleteTask(ctx context.Context, i invocation, out io.Writer) error {
	bundle := i.Bundle
	if bundle == "" {
		var err error
		if bundle, err = os.Getwd(); err != nil {
			return fmt.Errorf("delete: find the bundle: %w", err)
		}
	}
	exit := &api.DeleteResponse{ExitStatus: 128 + uint32(unix.SIGKILL), ExitedAt: timestamppb.Now()}
	address, err := bundleAddress(bundle)
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if address != "" {
		if err := cleanUp(ctx, i, address, exit); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	}
	data, err := proto.Marshal(exit)
	if err != nil {
		return fmt.Errorf("delete: encode the answer: %w", err)
	}
	if _, err := out.Write(data); err != nil {
		return fmt.Errorf("delete: answer containerd: %w", err)
	}
	return nil
}

// bundleAddress is where the server of a bundle listens: as start wrote it, or
// as containerd did for a container that joined a pod without a start. It is
// empty when there never was one.
func bundleAddress(bundle string) (string, error) {
	data, err := os.ReadFile(filepath.Join(bundle, addressFile))
	if err == nil {
		return string(data), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("find the server: %w", err)
	}
	data, err = os.ReadFile(filepath.Join(bundle, "bootstrap.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find the server: %w", err)
	}
	var b struct {
		Address string `json:"address"`
	}
	if err := json.Unmarshal(data, &b); err != nil {
		return "", fmt.Errorf("find the server: bootstrap.json: %w", err)
	}
	return b.Address, nil
}

// cleanUp removes a task, and what dead servers at the address have left. It
// sets exit if a server tells.
func cleanUp(ctx context.Context, i invocation, address string, exit *api.DeleteResponse) error {
	dirs, err := findRunDirs(runRoot(os.Getenv), address)
	if err != nil {
		return err
	}
	for _, d := range dirs {
		err = errors.Join(err, cleanUpServer(ctx, i, address, d, exit))
	}
	return errors.Join(err, removeDeadSocket(ctx, address))
}

// cleanUpServer removes a task from the server of a run directory and, unless
// that lives on for others, all that the server has.
func cleanUpServer(ctx context.Context, i invocation, address string, d runDir, exit *api.DeleteResponse) error {
	server, err := d.server()
	if err != nil {
		return err
	}
	if server == nil {
		return endAll(ctx, nil, d)
	}
	polite := true
	if !d.closing() {
		// A server that ends may not have answered to the end.
		polite = askServer(ctx, i, address, exit) == nil || d.closing()
	}
	if polite && !d.closing() {
		return server.Close() // it lives, and others in it
	}
	if polite {
		awaitEnd(ctx, server)
	}
	return endAll(ctx, server, d)
}

// awaitEnd waits for a server that ends by itself. ctx must have a deadline.
func awaitEnd(ctx context.Context, server *record.Handle) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return
	}
	ctx, cancel := context.WithDeadline(ctx, deadline.Add(-killReserve))
	defer cancel()
	_ = server.Wait(ctx) // if in vain, it is killed next
}

// endAll kills what a run directory names, and the server if that is not nil,
// and removes the directory. It closes the server's handle. A cgroup that cannot be
// removed keeps the directory, which names it: the next delete then tries it again.
func endAll(ctx context.Context, server *record.Handle, d runDir) error {
	hs, err := record.OpenAll(d.pids())
	if server != nil {
		hs = append(hs, server)
	}
	group, gerr := groupOfSandbox(d)
	if group != nil {
		gerr = moveOut(group, hs)
	}
	err = errors.Join(err, gerr)
	dying, cancel := context.WithTimeout(ctx, dyingTimeout)
	defer cancel()
	if kerr := record.KillAll(dying, hs); errors.Is(kerr, os.ErrDeadlineExceeded) {
		// No process survives it. containerd logs this as a warning.
		fmt.Fprintf(os.Stderr, "killed, and not gone yet: %s\n", kerr)
	} else {
		err = errors.Join(err, kerr)
	}
	if group != nil {
		if rerr := group.Remove(ctx); rerr != nil {
			return errors.Join(err, rerr)
		}
	}
	return errors.Join(err, d.remove())
}

// moveOut moves processes that are to be killed out of their sandbox's cgroup, which can
// not be removed for as long as they die in it; and those that end with them, as the one
// of virtiofsd that has its mounts.
func moveOut(group *cgroup.Group, hs []*record.Handle) error {
	var pids []int
	for _, h := range hs {
		pids = append(pids, h.Process.PID)
	}
	return group.MoveOut(pids)
}

// groupOfSandbox is the cgroup of a sandbox, or nil.
func groupOfSandbox(d runDir) (*cgroup.Group, error) {
	path, err := os.ReadFile(filepath.Join(d.sandbox(), sandbox.CgroupFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find the pod's cgroup: %w", err)
	}
	return cgroup.New(string(path))
}

// askServer has a server that answers remove the task, and end if that was its
// last, or the id is that of its sandbox.
func askServer(ctx context.Context, i invocation, address string, exit *api.DeleteResponse) error {
	ctx, cancel := context.WithTimeout(ctx, politeTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socketPath(address))
	if err != nil {
		return err
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	r, err := task.Remove(ctx, client, i.ID)
	switch {
	case err == nil:
		exit.Pid, exit.ExitStatus, exit.ExitedAt = r.Pid, r.ExitStatus, r.ExitedAt
	case errdefs.IsAborted(err):
		return nil // slowly, and others live there
	case !errdefs.IsNotFound(err):
		return err
	}
	// The id may be a sandbox's: that ends whatever lives in it. Of another, it
	// is no more than the next. A server of before the sandbox API refuses it.
	_, err = sandboxv1.NewTTRPCSandboxClient(client).ShutdownSandbox(ctx, &sandboxv1.ShutdownSandboxRequest{SandboxID: i.ID})
	if err != nil && !errdefs.IsNotImplemented(errgrpc.ToNative(err)) {
		return err
	}
	_, err = api.NewTTRPCTaskClient(client).Shutdown(ctx, &api.ShutdownRequest{ID: i.ID})
	return err
}
