package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

const (
	// cniPlugins is where distributions put the CNI plugins.
	cniPlugins = "/usr/lib/cni"
	// The network that the plugins make, and the address of its bridge.
	cniSubnet  = "10.97.0.0/24"
	cniGateway = "10.97.0.1"
)

// needCNI skips a test on a machine without the plugins.
func needCNI(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(cniPlugins, "bridge")); err != nil {
		t.Skip("no CNI plugins: install containernetworking-plugins (`make setup`):", err)
	}
}

// cniBridge configures the bridge plugin. Addresses in use are files of the cell,
// where they are found if they are left.
func cniBridge(c *harness.Cell) string {
	return fmt.Sprintf(`{
  "cniVersion": "0.4.0", "name": "%s", "type": "bridge", "bridge": "cni0", "isGateway": true,
  "ipam": {"type": "host-local", "subnet": "%s", "dataDir": "%s/cni/addresses", "routes": [{"dst": "0.0.0.0/0"}]}
}
`, c.Namespace, cniSubnet, c.Dir)
}

// firstThing is a server which says, before anything else, that it is on the
// network, by which address, and that the bridge answers.
const firstThing = "ip -o -4 addr show dev eth0 | sed 's/.* inet \\([0-9.]*\\).*/\\1/' && ping -c 1 -W 20 " + cniGateway + " >/dev/null && "

// testCtrCNI is `ctr run --cni`: ctr has CNI attach the network once the task is
// made, before it is started.
func testCtrCNI(t *testing.T, c *harness.Cell) {
	needCNI(t)
	host := c.NewHost(t)
	if err := host.Shell(t.Context(), c, `mkdir -p /opt/cni /etc/cni/net.d; ln -sfn "$1" /opt/cni/bin; echo "$2" >/etc/cni/net.d/10-test.conf`, cniPlugins, cniBridge(c)); err != nil {
		t.Fatal(err)
	}
	id, err := c.NewID()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*harness.Patience)
	defer cancel()
	cmd := c.CtrCommand(ctx, "run", "--rm", "--cni", "--runtime", c.Runtime, image.Name, id, "sh", "-c", firstThing+fmt.Sprintf(server, "80"))
	host.Enter(cmd)
	var errs strings.Builder
	cmd.Stderr = &errs
	output, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	output.SetReadDeadline(time.Now().Add(harness.Patience))
	cmd.Stdout = write
	done := make(chan error, 1)
	go func() { // ends with ctr, which ends with ctx
		err := c.RunCommand(cmd)
		write.Close()
		done <- err
	}()
	kill := func() {
		cmd := c.CtrCommand(ctx, "task", "kill", "-s", "KILL", id)
		host.Enter(cmd)
		if err := c.RunCommand(cmd); err != nil {
			t.Errorf("killing it: %v", err)
		}
	}
	lines := bufio.NewReader(output)
	address, _ := lines.ReadString('\n')
	serving, err := lines.ReadString('\n')
	if serving != "serving\n" {
		kill()
		<-done
		t.Fatalf("the container says %q and %q, %v: %s", address, serving, err, errs.String())
	}
	wantPage(t, host.NetNS, "tcp4", strings.TrimSpace(address)+":80")

	kill() // has CNI detach the network, and so must run where it is
	if err := <-done; err == nil || err.Error() != "exit status 137" {
		t.Errorf("ctr ended with %v: %s", err, errs.String())
	}
	if strings.Contains(errs.String(), "failed") {
		t.Errorf("ctr complains: %s", errs.String())
	}
}

// attachHook is a hook of the host as those that attach a container's networks:
// it calls the plugins on the namespace of the process in the state that it gets.
const attachHook = `#!/bin/sh
set -eu
state=$(cat)
field() { echo "$state" | tr ',{}' '\n\n\n' | sed -n 's/.*"'$1'": *"*\([^"]*\)"*.*/\1/p' | head -1; }
dir=$(dirname "$0")
export CNI_COMMAND=$1 CNI_CONTAINERID=$(field id) CNI_IFNAME=eth0 CNI_PATH=` + cniPlugins + ` CNI_NETNS=
if [ "$1" = ADD ]; then CNI_NETNS=/proc/$(field pid)/ns/net; fi
plugin() { nsenter --net="$(cat "$dir/netns")" "$CNI_PATH/$1"; }
portmap() {
	plugin portmap <<-END
	{"cniVersion": "0.4.0", "name": "ports", "type": "portmap", "prevResult": $1, "runtimeConfig":
	 {"portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]}}
	END
}
if [ "$1" = ADD ]; then
	plugin bridge <"$dir/bridge.conf" >"$dir/result"
	portmap "$(cat "$dir/result")"
else
	portmap "$(cat "$dir/result")"
	plugin bridge <"$dir/bridge.conf"
	echo detached >"$dir/detached"
fi
`

// testHookCNI has hooks attach a network and publish a port, and take both away.
func testHookCNI(t *testing.T, c *harness.Cell) {
	needCNI(t)
	host := c.NewHost(t)
	dir := hostDir(t, c, map[string]string{"hook": attachHook, "bridge.conf": cniBridge(c), "netns": host.NetNS.Path()})
	hook := filepath.Join(dir, "hook")
	if err := os.Chmod(hook, 0o755); err != nil {
		t.Fatal(err)
	}
	with := func(command string) []specs.Hook {
		return []specs.Hook{{Path: hook, Args: []string{"hook", command}, Env: []string{"PATH=" + os.Getenv("PATH")}}}
	}
	task := c.Container(t, harness.Sh(firstThing+fmt.Sprintf(server, "80")), func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: with("ADD"), Poststop: with("DEL")}
	}).Create(t, harness.IO{})
	task.Start(t)
	task.Expect(t, "serving\n")
	address, _, _ := strings.Cut(task.Output(), "\n")
	wantPage(t, host.NetNS, "tcp4", address+":80")
	wantPage(t, host.NetNS, "tcp4", cniGateway+":18080")

	if err := task.Kill(t, uint32(unix.SIGKILL), false); err != nil {
		t.Fatal(err)
	}
	task.Wait(t, harness.Patience)
	task.Delete(t)
	if got, err := os.ReadFile(filepath.Join(dir, "detached")); string(got) != "detached\n" {
		t.Errorf("the hook that detaches the network left %q, %v", got, err)
	}
	if conn, err := host.NetNS.Dial("tcp4", cniGateway+":18080", 5*time.Second); err == nil {
		defer conn.Close()
		reply, _ := io.ReadAll(conn)
		t.Errorf("the published port still answers, with %q", reply)
	}
}
