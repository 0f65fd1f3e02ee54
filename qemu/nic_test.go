package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// testNet is a network namespace, and a thread that is in it.
type testNet struct {
	path string
	work chan func()
}

// newNet makes a network namespace that ends with the test.
func newNet(t *testing.T) *testNet {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make a network namespace")
	}
	n := &testNet{work: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		err := unix.Unshare(unix.CLONE_NEWNET)
		n.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		made <- err
		for work := range n.work {
			work()
		}
	}()
	t.Cleanup(func() { close(n.work) })
	if err := <-made; err != nil {
		t.Fatal(err)
	}
	return n
}

// do runs a function in the namespace.
func (n *testNet) do(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	n.work <- func() { done <- f() }
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// tap makes a tap that ends with the test, brings it up, and returns its queues and
// a socket that hears its frames of the experimental type.
func (n *testNet) tap(t *testing.T, name string, queues int) (files []*os.File, frames *os.File) {
	t.Helper()
	n.do(t, func() error {
		flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if queues > 1 {
			flags |= unix.IFF_MULTI_QUEUE
		}
		for range queues {
			f, err := openTap(name, flags)
			if err != nil {
				return err
			}
			t.Cleanup(func() { f.Close() })
			files = append(files, f)
		}
		var err error
		frames, err = listenFrames(name)
		if err == nil {
			t.Cleanup(func() { frames.Close() })
		}
		return err
	})
	return files, frames
}

func openTap(name string, flags uint16) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("make tap %s: %w", name, err)
	}
	return f, nil
}

func listenFrames(name string) (*os.File, error) {
	const experimental = 0xb588 // 0x88b5 in network order
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, experimental)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(s), name)
	link, err := net.InterfaceByName(name)
	if err == nil {
		err = unix.Bind(s, &unix.SockaddrLinklayer{Protocol: experimental, Ifindex: link.Index})
	}
	request, err2 := unix.NewIfreq(name)
	if err2 == nil {
		request.SetUint16(unix.IFF_UP)
		err2 = unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request)
	}
	if err := errors.Join(err, err2); err != nil {
		f.Close()
		return nil, fmt.Errorf("bring tap %s up: %w", name, err)
	}
	return f, nil
}

// kernels runs a test in a guest of each kernel that `make` built.
func kernels(t *testing.T, test func(t *testing.T, spec virtcontainers.VMSpec)) {
	dir := os.Getenv(outputEnv)
	if dir == "" {
		t.Skipf("%s does not name the output of `make`: there is no guest to boot", outputEnv)
	}
	for _, kernel := range []string{"hyperkernel", "cloud"} {
		t.Run(kernel, func(t *testing.T) {
			files := filepath.Join(dir, "share/hyper", kernel)
			image, err := os.ReadFile(filepath.Join(files, "initrd.img"))
			if err != nil {
				t.Skipf("this kernel is not built: %v", err)
			}
			ours, err := os.ReadFile(testImage(t))
			if err != nil {
				t.Fatal(err)
			}
			// The kernel unpacks one archive after the other: the modules stay, the
			// agent gives way to the test guest.
			test(t, virtcontainers.VMSpec{
				ID: "test", Dir: t.TempDir(), VCPUs: 2, MemoryMiB: 256,
				Kernel: filepath.Join(files, "vmlinux"),
				Image:  writeFile(t, "initrd.img", append(image, ours...), 0o644),
			})
		})
	}
}

func testMAC(n byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, n} }

func TestNIC(t *testing.T) {
	kernels(t, func(t *testing.T, spec virtcontainers.VMSpec) {
		ns := newNet(t)
		spec.NetNS = ns.path
		vm := start(t, newDriver(t, Config{Machine: MachineQ35}), spec)
		checkNamespace(t, vm.PID(), ns.path)
		g := connect(t, vm)
		g.ask(t, "ping")
		for round := range 2 {
			tap, frames := ns.tap(t, fmt.Sprintf("tap%d", round), 1)
			nic := virtcontainers.NIC{ID: "a", MAC: testMAC(1), MTU: 1400, Queues: tap}
			begin := time.Now()
			attach(t, vm, nic)
			name, mtu, _ := strings.Cut(g.ask(t, "link", nic.MAC.String()), " ")
			t.Logf("the guest had %s after %v", name, time.Since(begin))
			if mtu != "1400" {
				t.Errorf("the guest's MTU is %s", mtu)
			}
			if err := vm.AttachNIC(t.Context(), nic); !errdefs.IsAlreadyExists(err) {
				t.Errorf("AttachNIC() of the same again = %v", err)
			}
			// QEMU has its own.
			tap[0].Close()
			g.ask(t, "send", name, "hello")
			checkFrame(t, frames, nic.MAC, "hello")
			begin = time.Now()
			detach(t, vm, nic.ID)
			t.Logf("the guest let go after %v", time.Since(begin))
			g.ask(t, "nolink", nic.MAC.String())
			if err := vm.DetachNIC(t.Context(), nic.ID); !errdefs.IsNotFound(err) {
				t.Errorf("a second DetachNIC() = %v", err)
			}
		}
	})
}

// TestNICWhileBooting plugs a card in before the guest's kernel runs, and out again
// while it boots.
func TestNICWhileBooting(t *testing.T) {
	kernels(t, func(t *testing.T, spec virtcontainers.VMSpec) {
		ns := newNet(t)
		vm := start(t, newDriver(t, Config{Machine: MachineQ35}), spec)
		stays, _ := ns.tap(t, "stays", 2)
		goes, _ := ns.tap(t, "goes", 1)
		attach(t, vm, virtcontainers.NIC{ID: "stays", MAC: testMAC(1), Queues: stays})
		attach(t, vm, virtcontainers.NIC{ID: "goes", MAC: testMAC(2), Queues: goes})
		detach(t, vm, "goes")
		g := connect(t, vm)
		name, _, _ := strings.Cut(g.ask(t, "link", testMAC(1).String()), " ")
		if n := g.ask(t, "queues", name); n != "2" {
			t.Errorf("the card has %s queues", n)
		}
		g.ask(t, "nolink", testMAC(2).String())
	})
}

func attach(t *testing.T, vm virtcontainers.VM, nic virtcontainers.NIC) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	if err := vm.AttachNIC(ctx, nic); err != nil {
		t.Fatal(err)
	}
}

func detach(t *testing.T, vm virtcontainers.VM, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	if err := vm.DetachNIC(ctx, id); err != nil {
		t.Fatalf("%v\n%s", err, vm.Log())
	}
}

// checkFrame takes one frame off a tap.
func checkFrame(t *testing.T, frames *os.File, from net.HardwareAddr, text string) {
	t.Helper()
	if err := frames.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 2048)
	n, err := frames.Read(frame)
	if err != nil {
		t.Fatalf("no frame comes out of the tap: %v", err)
	}
	if n < 14+len(text) || !bytes.Equal(frame[6:12], from) || !bytes.HasPrefix(frame[14:n], []byte(text)) {
		t.Errorf("the frame is %q", frame[:n])
	}
}

func checkNamespace(t *testing.T, pid int, path string) {
	t.Helper()
	want, err1 := os.Readlink(path)
	got, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err := errors.Join(err1, err2); err != nil || got != want {
		t.Errorf("QEMU is in %s, not in %s (%v)", got, want, err)
	}
}
