package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hyperhq/hyper/qemu/qmp"
	"github.com/hyperhq/hyper/virtcontainers"
)

func TestNICArguments(t *testing.T) {
	p := &plug{device: "nic-a-1", slot: 17}
	for _, tc := range []struct {
		nic  virtcontainers.NIC
		want string
	}{
		{virtcontainers.NIC{MAC: testMAC(1), Queues: make([]*os.File, 1)},
			`{"driver":"virtio-net-pci","id":"nic-a-1","netdev":"nic-a-1","bus":"hot","addr":"0x11",` +
				`"mac":"02:00:00:00:00:01","mq":false,"vectors":4,"romfile":"","disable-legacy":"on"}`},
		{virtcontainers.NIC{MAC: testMAC(1), MTU: 9000, Queues: make([]*os.File, 4)},
			`{"driver":"virtio-net-pci","id":"nic-a-1","netdev":"nic-a-1","bus":"hot","addr":"0x11",` +
				`"mac":"02:00:00:00:00:01","host_mtu":9000,"mq":true,"vectors":10,"romfile":"","disable-legacy":"on"}`},
	} {
		if got, err := json.Marshal(deviceArguments(tc.nic, p)); err != nil || string(got) != tc.want {
			t.Errorf("got\n%s, %v\nwant\n%s", got, err, tc.want)
		}
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
			checkFrame(t, g, name, nic.MAC, frames)
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

// TestGuestEjects has the guest let go of a card by itself. The card is then still
// the host's to detach.
func TestGuestEjects(t *testing.T) {
	kernels(t, func(t *testing.T, spec virtcontainers.VMSpec) {
		ns := newNet(t)
		vm := start(t, newDriver(t, Config{Machine: MachineQ35}), spec)
		g := connect(t, vm)
		g.ask(t, "ping")
		for round := range 2 {
			tap, _ := ns.tap(t, fmt.Sprintf("tap%d", round), 1)
			nic := virtcontainers.NIC{ID: "a", MAC: testMAC(1), Queues: tap}
			attach(t, vm, nic)
			g.ask(t, "link", nic.MAC.String())
			g.ask(t, "write", "/sys/bus/pci/slots/1/power", "0")
			g.ask(t, "nolink", nic.MAC.String())
			checkError(t, vm.AttachNIC(t.Context(), nic), errdefs.ErrAlreadyExists, `"a"`)
			detach(t, vm, nic.ID)
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

// TestManyNICs fills every slot, from many goroutines at once, and empties them.
func TestManyNICs(t *testing.T) {
	kernels(t, func(t *testing.T, spec virtcontainers.VMSpec) {
		ns := newNet(t)
		vm := start(t, newDriver(t, Config{Machine: MachineQ35}), spec)
		g := connect(t, vm)
		g.ask(t, "ping")
		var nics [hotplugSlots]virtcontainers.NIC
		for i := range nics {
			tap, _ := ns.tap(t, fmt.Sprintf("tap%d", i), 1)
			nics[i] = virtcontainers.NIC{ID: fmt.Sprintf("nic%d", i), MAC: testMAC(byte(i)), Queues: tap}
		}
		each := func(do func(nic virtcontainers.NIC)) {
			var all sync.WaitGroup
			for _, nic := range nics {
				all.Go(func() { do(nic) })
			}
			all.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*bootTimeout)
		defer cancel()
		each(func(nic virtcontainers.NIC) {
			if err := vm.AttachNIC(ctx, nic); err != nil {
				t.Error(err)
			}
		})
		more, _ := ns.tap(t, "more", 1)
		last := virtcontainers.NIC{ID: "more", MAC: testMAC(99), Queues: more}
		checkError(t, vm.AttachNIC(ctx, last), errdefs.ErrResourceExhausted, "31")
		for i := range hotplugSlots {
			g.ask(t, "link", testMAC(byte(i)).String())
		}
		each(func(nic virtcontainers.NIC) {
			if err := vm.DetachNIC(ctx, nic.ID); err != nil {
				t.Error(err)
			}
		})
		attach(t, vm, last)
		g.ask(t, "link", last.MAC.String())
		g.ask(t, "nolink", testMAC(0).String())
	})
}

// TestNICErrors needs no guest: QEMU runs a kernel that halts, and so never lets go
// of what it was given.
func TestNICErrors(t *testing.T) {
	ns := newNet(t)
	vm := start(t, newDriver(t, Config{Machine: MachineQ35, Accel: AccelTCG}), goodSpec(t))
	tap, _ := ns.tap(t, "tap", 1)
	two, _ := ns.tap(t, "two", 2)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	good := virtcontainers.NIC{ID: "a", MAC: testMAC(1), Queues: tap}
	for name, change := range map[string]func(*virtcontainers.NIC){
		"no id":        func(n *virtcontainers.NIC) { n.ID = "" },
		"odd id":       func(n *virtcontainers.NIC) { n.ID = "a,b=c" },
		"digit first":  func(n *virtcontainers.NIC) { n.ID = "1a" },
		"no address":   func(n *virtcontainers.NIC) { n.MAC = nil },
		"group's MAC":  func(n *virtcontainers.NIC) { n.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} },
		"small MTU":    func(n *virtcontainers.NIC) { n.MTU = 67 },
		"large MTU":    func(n *virtcontainers.NIC) { n.MTU = 65536 },
		"no queue":     func(n *virtcontainers.NIC) { n.Queues = nil },
		"no file":      func(n *virtcontainers.NIC) { n.Queues = []*os.File{nil} },
		"no tap":       func(n *virtcontainers.NIC) { n.Queues = []*os.File{null} },
		"vhost count":  func(n *virtcontainers.NIC) { n.VHost = []*os.File{null, null} },
		"bad vhost":    func(n *virtcontainers.NIC) { n.VHost = []*os.File{null} },
		"no vhost":     func(n *virtcontainers.NIC) { n.VHost = []*os.File{nil} },
		"second queue": func(n *virtcontainers.NIC) { n.Queues = []*os.File{tap[0], null} },
	} {
		t.Run(name, func(t *testing.T) {
			nic := good
			change(&nic)
			checkError(t, vm.AttachNIC(t.Context(), nic), errdefs.ErrInvalidArgument, "VM")
		})
	}
	monitor := vm.(*machine).monitor
	t.Run("QEMU refuses the tap", func(t *testing.T) {
		// Another is there already, which goes with the attempt.
		if err := monitor.PassFile(t.Context(), "other", two[0]); err != nil {
			t.Fatal(err)
		}
		if err := monitor.AddTap(t.Context(), "nic-a-1", []string{"other"}, nil); err != nil {
			t.Fatal(err)
		}
		checkRefused(t, vm.AttachNIC(t.Context(), good), "netdev_add")
	})
	var before int
	t.Run("QEMU refuses the card", func(t *testing.T) {
		other := map[string]string{"driver": "pci-testdev", "id": "other", "bus": hotplugBus, "addr": "0x1"}
		if err := monitor.AddDevice(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		before = qemuFiles(t, vm)
		checkRefused(t, vm.AttachNIC(t.Context(), good), "device_add")
		// Out of the way of those to come.
		vm.(*machine).plugs.slots.used |= 1 << 1
	})
	t.Run("gave up before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		checkError(t, vm.AttachNIC(ctx, good), context.Canceled, `"a"`)
	})
	t.Run("unknown", func(t *testing.T) {
		checkError(t, vm.DetachNIC(t.Context(), "b"), errdefs.ErrNotFound, `"b"`)
	})
	if after := qemuFiles(t, vm); after > before {
		t.Errorf("QEMU has %d files open, %d before", after, before)
	}
	attach(t, vm, good) // nothing is left of the others
	t.Run("never let go", func(t *testing.T) {
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			checkError(t, vm.DetachNIC(ctx, good.ID), context.DeadlineExceeded, "does not let go")
			cancel()
		}
		checkError(t, vm.AttachNIC(t.Context(), good), errdefs.ErrAlreadyExists, "detach it first")
	})
	t.Run("the machine ends", func(t *testing.T) {
		detached := make(chan error)
		go func() { detached <- vm.DetachNIC(t.Context(), good.ID) }()
		if err := vm.Kill(t.Context()); err != nil {
			t.Error(err)
		}
		checkError(t, <-detached, errdefs.ErrUnavailable, `"a"`)
		checkError(t, vm.AttachNIC(t.Context(), good), errdefs.ErrUnavailable, "gone")
	})
}

// TestNoHotplug needs no guest either.
func TestNoHotplug(t *testing.T) {
	m := &machine{id: "test"}
	checkError(t, m.AttachNIC(t.Context(), virtcontainers.NIC{ID: "a"}), errdefs.ErrNotImplemented, MachineQ35)
	checkError(t, m.DetachNIC(t.Context(), "a"), errdefs.ErrNotImplemented, MachineQ35)
}

func TestNetNSErrors(t *testing.T) {
	for path, kind := range map[string]error{
		filepath.Join(t.TempDir(), "missing"): errdefs.ErrNotFound,
		writeFile(t, "file", nil, 0o644):      errdefs.ErrInvalidArgument,
		os.TempDir():                          errdefs.ErrInvalidArgument,
		"/proc/self/ns/uts":                   errdefs.ErrInvalidArgument,
	} {
		spec := goodSpec(t)
		spec.NetNS = path
		_, err := newDriver(t, Config{}).Start(t.Context(), spec)
		checkError(t, err, kind, "network namespace "+path)
	}
}

func checkRefused(t *testing.T, err error, command string) {
	t.Helper()
	var refused *qmp.Error
	if !errors.As(err, &refused) || refused.Command != command || strings.Contains(err.Error(), "undo") {
		t.Errorf("AttachNIC() = %v, want that QEMU refuses %s", err, command)
	}
}

func qemuFiles(t *testing.T, vm virtcontainers.VM) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", vm.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
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

// checkFrame has the guest send until a frame comes out of the tap: a link that is
// not up yet drops what it is given.
func checkFrame(t *testing.T, g *guest, link string, from net.HardwareAddr, frames *os.File) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		g.ask(t, "send", link, "hello")
		if err := frames.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		frame := make([]byte, 2048)
		n, err := frames.Read(frame)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil || n < 60 || !bytes.Equal(frame[6:12], from) || !bytes.HasPrefix(frame[14:n], []byte("hello")) {
			t.Errorf("the frame is %q, %v", frame[:n], err)
		}
		return
	}
	t.Error("no frame comes out of the tap")
}

func checkNamespace(t *testing.T, pid int, path string) {
	t.Helper()
	want, err1 := os.Readlink(path)
	got, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err := errors.Join(err1, err2); err != nil || got != want {
		t.Errorf("QEMU is in %s, not in %s (%v)", got, want, err)
	}
}
