package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	waitLimit   = 10 * time.Second
	vnetHeader  = 10     // bytes before a frame in a tap's queue, as long as nobody asks for more
	testType    = 0x88b5 // an EtherType for experiments
	arpType     = 0x0806
	ethernetLen = 14
)

func TestJoinCarriesFrames(t *testing.T) {
	for _, queues := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d queues", queues), func(t *testing.T) {
			pod, host := newPod(t)
			tap := join(t, pod, "eth0", queues)
			if len(tap.Queues) != queues {
				t.Fatalf("the tap has %d queues", len(tap.Queues))
			}
			wire := packetSocket(t, host, "veth0")
			queues := pollable(t, tap.Queues...)
			for i, queue := range queues {
				want := frame(testType, fmt.Sprintf("from the guest, queue %d", i))
				write(t, queue, append(make([]byte, vnetHeader), want...))
				if got := readFrame(t, wire, 0, testType); !bytes.Equal(got, want) {
					t.Errorf("the other end of the link got %q, want %q", got, want)
				}
			}
			want := frame(testType, "to the guest")
			write(t, wire, want)
			if got := readFromAny(t, queues); !bytes.Equal(got, want) {
				t.Errorf("the tap got %q, want %q", got, want)
			}
		})
	}
}

// TestJoinMakesTheNamespaceDeaf asks for the MAC of an address that the link has:
// the guest is to answer, and nobody else.
func TestJoinMakesTheNamespaceDeaf(t *testing.T) {
	pod, host := newPod(t)
	ip(t, pod, "addr add 10.88.0.5/24 dev eth0")
	wire := packetSocket(t, host, "veth0")
	question := frame(arpType, "\x00\x01\x08\x00\x06\x04\x00\x01"+
		"\x02\x00\x00\x00\x00\x01"+"\x0a\x58\x00\x01"+
		"\x00\x00\x00\x00\x00\x00"+"\x0a\x58\x00\x05")
	write(t, wire, question)
	readFrame(t, wire, 0, arpType) // as long as it is not joined, its stack answers

	queue := pollable(t, join(t, pod, "eth0", 1).Queues...)[0]
	write(t, wire, question)
	if got := readFrame(t, queue, vnetHeader, arpType); !bytes.Equal(got, question) {
		t.Errorf("the tap got %x, want the question", got)
	}
	// What a stack had answered would arrive before this.
	write(t, queue, append(make([]byte, vnetHeader), frame(testType, "last")...))
	if got := readFrame(t, wire, 0, arpType, testType); etherType(got) != testType {
		t.Errorf("somebody answered: %x", got)
	}
}

func TestJoinTakesTheLinksMTU(t *testing.T) {
	pod, _ := newPod(t)
	ip(t, pod, "link set eth0 mtu 9000")
	tap := join(t, pod, "eth0", 1)
	link := onlyTap(t, pod)
	if link.Attrs().MTU != 9000 {
		t.Errorf("the tap's MTU is %d", link.Attrs().MTU)
	}
	if bytes.Equal(link.Attrs().HardwareAddr, []byte{2, 0, 0, 0, 0, 5}) {
		t.Error("the tap has its link's MAC")
	}
	if err := tap.SetMTU(1400); err != nil {
		t.Fatal(err)
	}
	if mtu := onlyTap(t, pod).Attrs().MTU; mtu != 1400 {
		t.Errorf("the tap's MTU is %d after it was set to 1400", mtu)
	}
	checkNetwork(t, pod, "eth0 02:00:00:00:00:05 9000") // and no tap
}

// TestJoinKeepsQuiet sees to it that the first that a guest hears is not its own
// host's stack, which would greet it over a tap that has an IPv6 address.
func TestJoinKeepsQuiet(t *testing.T) {
	pod, _ := newPod(t)
	join(t, pod, "eth0", 1)
	if said := run(t, pod, "", "ip", "-oneline", "-6", "address", "show", "dev", onlyTap(t, pod).Attrs().Name); said != "" {
		t.Errorf("the tap has addresses: %s", said)
	}
}

func TestJoinRefuses(t *testing.T) {
	pod, _ := newPod(t)
	ip(t, pod, "tuntap add tun0 mode tun")
	join(t, pod, "eth0", 1)
	tests := map[string]struct {
		link   string
		queues int
		is     error
	}{
		"no such link":            {"eth7", 1, errdefs.ErrNotFound},
		"the loopback":            {"lo", 1, errdefs.ErrNotImplemented},
		"a link of bare packets":  {"tun0", 1, errdefs.ErrNotImplemented},
		"a link that is joined":   {"eth0", 1, errdefs.ErrAlreadyExists},
		"no queue":                {"eth0", 0, errdefs.ErrInvalidArgument},
		"more queues than can be": {"eth0", 257, errdefs.ErrInvalidArgument},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := inventory(t, pod)
			tap, err := pod.Join(test.link, test.queues)
			if !errors.Is(err, test.is) {
				t.Errorf("Join(%s, %d) = %v, want %v", test.link, test.queues, err, test.is)
			}
			if err == nil {
				tap.Close()
			}
			if after := inventory(t, pod); after != before {
				t.Errorf("it left\n%s\nof\n%s", after, before)
			}
		})
	}
}

func TestTapCloseLeavesNothing(t *testing.T) {
	pod, _ := newPod(t)
	before := inventory(t, pod)
	for range 2 { // the link can be joined again
		tap, err := pod.Join("eth0", 2)
		if err != nil {
			t.Fatal(err)
		}
		if inventory(t, pod) == before {
			t.Fatal("the inventory does not show what Join made")
		}
		for range 2 {
			if err := tap.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if after := inventory(t, pod); after != before {
			t.Errorf("left:\n%s\nwas:\n%s", after, before)
		}
	}
}

// TestJoinAfterAShimWasKilled joins a link anew whose first tap went with the
// processes that held it, and whose redirection therefore leads nowhere.
func TestJoinAfterAShimWasKilled(t *testing.T) {
	pod, host := newPod(t)
	killed, err := pod.Join("eth0", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := closeAll(killed.Queues); err != nil {
		t.Fatal(err)
	}
	tap := join(t, pod, "eth0", 1)
	wire := packetSocket(t, host, "veth0")
	want := frame(testType, "to the second guest")
	write(t, wire, want)
	if got := readFrame(t, pollable(t, tap.Queues...)[0], vnetHeader, testType); !bytes.Equal(got, want) {
		t.Errorf("the tap got %q, want %q", got, want)
	}
}

// TestTapCloseLeavesOthersAlone has somebody else's filter on the link.
func TestTapCloseLeavesOthersAlone(t *testing.T) {
	pod, host := newPod(t)
	run(t, pod, "", "tc", "qdisc", "add", "dev", "eth0", "clsact")
	run(t, pod, "", "tc", "filter", "add", "dev", "eth0", "ingress", "protocol", "ip", "prio", "1", "u32", "match", "u32", "0", "0", "flowid", "1:1")
	before := inventory(t, pod)
	tap := join(t, pod, "eth0", 1)
	wire := packetSocket(t, host, "veth0")
	want := frame(testType, "past a filter")
	write(t, wire, want)
	if got := readFrame(t, pollable(t, tap.Queues...)[0], vnetHeader, testType); !bytes.Equal(got, want) {
		t.Errorf("the tap got %q, want %q", got, want)
	}
	if err := tap.Close(); err != nil {
		t.Fatal(err)
	}
	if after := inventory(t, pod); after != before {
		t.Errorf("left:\n%s\nwas:\n%s", after, before)
	}
}

func TestTapCloseAfterTheRestIsGone(t *testing.T) {
	tests := map[string]func(*testing.T, *Namespace, *Tap){
		"the link": func(t *testing.T, pod *Namespace, _ *Tap) { ip(t, pod, "link del eth0") },
		"the tap": func(t *testing.T, pod *Namespace, tap *Tap) {
			if err := closeAll(tap.Queues); err != nil {
				t.Fatal(err)
			}
		},
		"the ingress": func(t *testing.T, pod *Namespace, _ *Tap) {
			run(t, pod, "", "tc", "qdisc", "del", "dev", "eth0", "ingress")
		},
		"the namespace": func(t *testing.T, pod *Namespace, _ *Tap) {
			if err := pod.Close(); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, takeAway := range tests {
		t.Run(name, func(t *testing.T) {
			pod, _ := newPod(t)
			tap, err := pod.Join("eth0", 1)
			if err != nil {
				t.Fatal(err)
			}
			takeAway(t, pod, tap)
			for range 2 {
				if err := tap.Close(); err != nil {
					t.Error(err)
				}
			}
			for _, queue := range tap.Queues {
				if err := queue.Close(); !errors.Is(err, os.ErrClosed) {
					t.Errorf("a queue was left open: %v", err)
				}
			}
		})
	}
}

func join(t *testing.T, n *Namespace, link string, queues int) *Tap {
	t.Helper()
	tap, err := n.Join(link, queues)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tap.Close(); err != nil {
			t.Error(err)
		}
	})
	return tap
}

// pollable are the queues as QEMU has them: they do not block.
func pollable(t *testing.T, queues ...*os.File) []*os.File {
	t.Helper()
	var files []*os.File
	for _, queue := range queues {
		fd, err := unix.FcntlInt(queue.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), queue.Name())
		t.Cleanup(func() { file.Close() })
		files = append(files, file)
	}
	return files
}

// inventory is what links a namespace has, and what is attached to them.
func inventory(t *testing.T, n *Namespace) string {
	t.Helper()
	var s string
	err := n.use(func(h *netlink.Handle) error {
		links, err := h.LinkList()
		for _, link := range links {
			s += fmt.Sprintf("%d: %s %s\n", link.Attrs().Index, link.Type(), link.Attrs().Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s += run(t, n, "", "tc", "qdisc", "show")
	for _, end := range []string{"ingress", "egress"} {
		s += run(t, n, "", "tc", "filter", "show", "dev", "eth0", end)
	}
	return s
}

// onlyTap is the one tap of a namespace, as the kernel sees it.
func onlyTap(t *testing.T, n *Namespace) netlink.Link {
	t.Helper()
	var taps []netlink.Link
	err := n.use(func(h *netlink.Handle) error {
		links, err := h.LinkList()
		for _, link := range links {
			if isTap(link) {
				taps = append(taps, link)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(taps) != 1 {
		t.Fatalf("there are %d taps", len(taps))
	}
	return taps[0]
}

// packetSocket reads and writes the frames of a link from outside.
func packetSocket(t *testing.T, n *Namespace, name string) *os.File {
	t.Helper()
	var file *os.File
	all := unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
	err := n.use(func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return n.inside(func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
			if err != nil {
				return err
			}
			file = os.NewFile(uintptr(fd), name)
			return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: link.Attrs().Index})
		})
	})
	if file != nil {
		t.Cleanup(func() { file.Close() })
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// frame is an Ethernet frame to everybody, of the least length.
func frame(kind uint16, payload string) []byte {
	f := append([]byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		2, 0, 0, 0, 0, 9,
		byte(kind >> 8), byte(kind),
	}, payload...)
	return append(f, make([]byte, max(0, 60-len(f)))...)
}

func etherType(frame []byte) int { return int(frame[12])<<8 | int(frame[13]) }

func write(t *testing.T, f *os.File, b []byte) {
	t.Helper()
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
}

// readFrame reads the next frame of one of the kinds, past the header of so many
// bytes. Kernels say more than the test makes them say.
func readFrame(t *testing.T, f *os.File, header int, kinds ...int) []byte {
	t.Helper()
	setDeadline(t, f, time.Now().Add(waitLimit))
	frame, err := nextFrame(f, header, kinds...)
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

func setDeadline(t *testing.T, f *os.File, deadline time.Time) {
	t.Helper()
	if err := f.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
}

func nextFrame(f *os.File, header int, kinds ...int) ([]byte, error) {
	for {
		b := make([]byte, 1<<16)
		n, err := f.Read(b)
		if err != nil {
			return nil, err
		}
		if n < header+ethernetLen {
			return nil, fmt.Errorf("a frame of %d bytes", n)
		}
		for _, kind := range kinds {
			if etherType(b[header:n]) == kind {
				return b[header:n], nil
			}
		}
	}
}

// readFromAny reads a frame for tests from whichever queue the kernel chose.
func readFromAny(t *testing.T, queues []*os.File) []byte {
	t.Helper()
	type result struct {
		frame []byte
		err   error
	}
	results := make(chan result, len(queues))
	for _, queue := range queues {
		setDeadline(t, queue, time.Now().Add(waitLimit))
		go func() {
			frame, err := nextFrame(queue, vnetHeader, testType)
			results <- result{frame, err}
		}()
	}
	first := <-results
	for _, queue := range queues { // nothing more is awaited from the others
		setDeadline(t, queue, time.Now())
	}
	for range len(queues) - 1 {
		<-results
	}
	if first.err != nil {
		t.Fatal(first.err)
	}
	return first.frame
}

// TestJoinKeepsLoopbackFromTheLink sends what a hostile guest may: frames that are
// for the loopback of whoever makes sockets of them.
func TestJoinKeepsLoopbackFromTheLink(t *testing.T) {
	for _, family := range []struct {
		name string
		// header is the packet's until the destination, and kind what it is.
		header  string
		kind    uint16
		refused []string
		allowed string
	}{
		{"IPv4", "\x45\x00\x00\x14" + "\x00\x00\x00\x00" + "\x40\x11\x00\x00" + "\x0a\x00\x02\x64", 0x0800,
			[]string{"127.0.0.1", "127.1.2.3", "0.0.0.0"}, "10.0.2.2"},
		{"IPv6", "\x60\x00\x00\x00" + "\x00\x00\x3b\x40" + string(net.ParseIP("fd00::64")), 0x86dd,
			[]string{"::1", "::", "::ffff:127.0.0.1", "::7f00:1"}, "64:ff9b::127.0.0.1"},
	} {
		t.Run(family.name, func(t *testing.T) {
			pod, host := newPod(t)
			queue := pollable(t, join(t, pod, "eth0", 1).Queues...)[0]
			wire := packetSocket(t, host, "veth0")
			send := func(destination string) {
				packet := family.header + string(netip.MustParseAddr(destination).AsSlice())
				write(t, queue, append(make([]byte, vnetHeader), frame(family.kind, packet)...))
			}
			for _, refused := range family.refused {
				send(refused)
			}
			// What was let through would arrive before this.
			send(family.allowed)
			want := netip.MustParseAddr(family.allowed)
			at := ethernetLen + len(family.header)
			for to := (netip.Addr{}); to != want; { // the kernel says things of its own
				got := readFrame(t, wire, 0, int(family.kind))
				to, _ = netip.AddrFromSlice(got[at : at+len(want.AsSlice())])
				if slices.Contains(family.refused, to.String()) {
					t.Errorf("a packet for %v came through", to)
				}
			}
		})
	}
}
