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
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/sandbox"
)

// gateWord is what lets a new server act.
const gateWord = "go"

// groupAnnotations name the group whose containers share a sandbox, the first
// that is there.
func groupAnnotations() []string {
	return []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}
}

// start is containerd's start, in the bundle: it joins the server of the
// container's group or starts it, and prints its address.
func start(ctx context.Context, i invocation, input []byte, out io.Writer) error {
	r, err := decodeRequest(input, i, os.Getenv("MAX_SHIM_VERSION"))
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	bundle, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("start: find the bundle: %w", err)
	}
	group, err := groupOf(bundle, i.ID)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	address, err := socketAddress(r.socketDir, r.grpcAddress, i.Namespace, group)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	// First of all: delete finds everything else by it, and so does containerd
	// 1.6 when it comes back.
	if err := writeFile(filepath.Join(bundle, addressFile), address); err != nil {
		return fmt.Errorf("start: record the server's address: %w", err)
	}
	l, err := listen(ctx, address)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if l == nil {
		return answer(out, r, address)
	}
	defer l.Close()
	i.Pool = poolKeyOf(i, r, bundle)
	kill, err := claim(i, r, bundle, address, l)
	if kill == nil && err == nil {
		kill, err = spawn(i, r, bundle, address, l)
	}
	if err == nil {
		if err = answer(out, r, address); err == nil {
			return nil
		}
		err = errors.Join(err, kill())
	}
	return fmt.Errorf("start: %w", errors.Join(err, os.Remove(socketPath(address))))
}

// groupOf reads which containers share a server with the one in bundle. The
// bundle of a sandbox, for which there is a start as well, may have no
// configuration: its containers join by its id.
func groupOf(bundle, id string) (string, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil // if it is a container's, Create says so
	}
	if err != nil {
		return "", fmt.Errorf("read the bundle: %w", err)
	}
	defer f.Close()
	data, err := readBounded(f, sandbox.MaxSpec)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", f.Name(), err)
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return "", fmt.Errorf("%s is no OCI configuration (%w): %w", f.Name(), err, errdefs.ErrInvalidArgument)
	}
	for _, name := range groupAnnotations() {
		if group := spec.Annotations[name]; group != "" {
			return group, nil
		}
	}
	return id, nil
}

// spawn starts the server on l, records it, and lets it act. kill ends it and
// removes its run directory. Nothing of it is left when it fails.
func spawn(i invocation, r request, bundle, address string, l *net.UnixListener) (kill func() error, err error) {
	dir, err := makeRunDir(runRoot(os.Getenv), address)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dir.remove())
		}
	}()
	socket, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("pass the socket on: %w", err)
	}
	defer socket.Close()
	gate, open, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make the server's gate: %w", err)
	}
	defer gate.Close()
	defer open.Close()
	cmd, err := serverCommand(i, r, bundle, dir)
	if err != nil {
		return nil, err
	}
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	defer mounts.Close()
	cmd.ExtraFiles = []*os.File{socket, gate, mounts} // 3, 4 and 5
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	kill = func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return dir.remove()
	}
	raiseOOMScore(cmd.Process.Pid)
	err = dir.recordServer(cmd.Process.Pid)
	if err == nil {
		_, err = open.WriteString(gateWord)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("record the server: %w", err), kill())
	}
	return kill, nil
}

// serverCommand is the server: this program without an action, in a session and
// a mount namespace of its own.
func serverCommand(i invocation, r request, bundle string, dir runDir) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the shim's binary: %w", err)
	}
	args := []string{"-namespace", i.Namespace, "-id", i.ID, "-address", r.grpcAddress, "-run-dir", string(dir)}
	if i.Pool != "" {
		args = append(args, "-pool", i.Pool)
	}
	if r.debug {
		args = append(args, "-debug")
	}
	cmd := exec.Command(self, args...)
	cmd.Dir = bundle
	cmd.Env = serverEnvironment(r)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		// Not Unshareflags: with them Go makes all mounts private, and what
		// the host mounts later would not arrive.
		Cloneflags: syscall.CLONE_NEWNS,
	}
	return cmd, nil
}

// serverEnvironment is this process's, with what containerd has said beside it.
func serverEnvironment(r request) []string {
	env := os.Environ()
	if r.ttrpcAddress != "" {
		env = append(env, "TTRPC_ADDRESS="+r.ttrpcAddress)
	}
	if r.configPath != "" {
		env = append(env, "HYPER_CONFIG="+r.configPath)
	}
	return env
}

// raiseOOMScore makes the server a better victim than containerd by one. A host
// may not allow it, and it is no reason to fail.
func raiseOOMScore(pid int) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", os.Getppid()))
	if err != nil {
		return
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(min(score+1, 1000))), 0)
}
