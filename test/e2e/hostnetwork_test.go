package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/harness"
	"github.com/hyperhq/hyper/test/image"
)

// outsidePage gets the page of the web server beyond the host. The server ends the
// connection: nc's own end of it comes later.
const outsidePage = `{ (printf 'GET / HTTP/1.0\r\n\r\n'; sleep 4) | timeout 8 nc -w 5 ` + harness.OutsideAddress + " " + harness.OutsidePort + ` | tail -1; }`

// onHostNetwork makes a container one that is to have the host's network.
func onHostNetwork(s *specs.Spec) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace
	})
}

// uplinked starts a containerd on a host that has a network beyond it.
func uplinked(t *testing.T, c *harness.Cell) (*harness.Cell, *harness.Host) {
	t.Helper()
	if _, err := exec.LookPath("pasta"); err != nil && c.Runtime == harness.RuntimeHyper {
		t.Skip("no pasta: install passt (`make setup`):", err)
	}
	host := c.NewHost(t)
	harness.NewOutside(t, host.NetNS)
	return c.In(t, host), host
}

// testNetHost is `ctr run --net-host`: TCP, UDP and names, from the first command on,
// however long the interface takes to come.
func testNetHost(t *testing.T, c *harness.Cell) {
	inside, host := uplinked(t, c)
	slow := filepath.Join(t.TempDir(), "pasta")
	if err := os.WriteFile(slow, []byte("#!/bin/sh\nsleep 2\nexec pasta \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	inside.DropInFor(t, "50-pasta.toml", fmt.Sprintf("[pasta]\npath = %q\n", slow))
	if err := host.Shell(t.Context(), c, `echo "nameserver $1" >/etc/resolv.conf`, harness.OutsideAddress); err != nil {
		t.Fatal(err)
	}
	id, err := inside.NewID()
	if err != nil {
		t.Fatal(err)
	}
	log := inside.LogSize()
	stdout, stderr, err := ctr(t, inside, "", "run", "--rm", "--net-host", "--runtime", inside.Runtime, image.Name, id,
		"sh", "-c", "{ ip route; ip -6 route; } | grep ^default | cut -d' ' -f-5; nslookup "+harness.OutsideName+" | grep ^Address | tail -1; "+outsidePage)
	if err != nil {
		t.Fatalf("%v: %s%s", err, stdout, stderr)
	}
	if !strings.Contains(stdout, "Address: "+harness.OutsideAddress) || !strings.HasSuffix(stdout, harness.OutsidePage+"\n") {
		t.Errorf("the container says %q", stdout)
	}
	if inside.Runtime != harness.RuntimeHyper {
		return
	}
	if !strings.HasPrefix(stdout, "default via 10.0.2.2 dev eth0\ndefault via fe80::2 dev eth0\n") {
		t.Errorf("its first command found the routes %q", stdout)
	}
	if said, err := inside.LogFrom(log); err != nil || !strings.Contains(string(said), "the host's network cannot be shared") {
		t.Errorf("no warning in the log, %v", err)
	}
}

// testUserNetworkDies kills what gives a container its way out: it gets another one.
func testUserNetworkDies(t *testing.T, c *harness.Cell) {
	inside, _ := uplinked(t, c)
	task := inside.Container(t, onHostNetwork, harness.Sh("echo ready; exec sleep 100000")).Create(t, harness.IO{})
	task.Start(t)
	task.Expect(t, "ready\n")
	works := fmt.Sprintf(`[ "$(%s)" = %q ]`, outsidePage, harness.OutsidePage)
	inGuest(t, task, works)
	pasta := inside.Program("passt") // as which it is installed
	if len(pasta) != 1 {
		t.Fatalf("the pod has %d of pasta: %v", len(pasta), pasta)
	}
	log := inside.LogSize()
	if err := unix.Kill(pasta[0].PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	inGuest(t, task, works)
	if again := inside.Program("passt"); len(again) != 1 || again[0].PID == pasta[0].PID {
		t.Errorf("after pasta %d was killed there are %v", pasta[0].PID, again)
	}
	if said, err := inside.LogFrom(log); err != nil || !strings.Contains(string(said), "has lost its outbound connections") {
		t.Errorf("no error in the log, %v", err)
	}
}
