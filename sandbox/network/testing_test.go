package network

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/process/thread"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newNamespace is a network namespace of the test's own, which goes with it.
func newNamespace(t *testing.T) *Namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	var file *os.File
	err := thread.Do(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	n, err := Open(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// newPod is a namespace with an eth0, as CNI leaves it, and that of the host's end
// of it, veth0. Both are up; neither has an address but what the kernel makes.
func newPod(t *testing.T) (pod, host *Namespace) {
	t.Helper()
	pod, host = newNamespace(t), newNamespace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	attrs.HardwareAddr = net.HardwareAddr{2, 0, 0, 0, 0, 5}
	err := pod.use(func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Veth{
			LinkAttrs:        attrs,
			PeerName:         "veth0",
			PeerHardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1},
			PeerNamespace:    netlink.NsFd(host.file.Fd()),
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	ip(t, host, "link set veth0 up")
	ip(t, pod, "link set eth0 up")
	return pod, host
}

// ip runs commands of ip(8) in a namespace, one a line.
func ip(t *testing.T, n *Namespace, commands string) {
	t.Helper()
	run(t, n, commands, "ip", "-batch", "-")
}

// run runs a program in a namespace and returns what it says.
func run(t *testing.T, n *Namespace, input, program string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("the test configures its namespaces with %s, of iproute2: %v", program, err)
	}
	var output []byte
	err = n.inside(func() (err error) {
		cmd := exec.Command(path, args...)
		cmd.Stdin = strings.NewReader(input)
		output, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, input, output)
	}
	return string(output)
}
