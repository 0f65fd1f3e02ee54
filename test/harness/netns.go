package harness

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/process/thread"
)

// NetNS is a network namespace that a test has made, or has opened.
type NetNS struct {
	file *os.File
	*netlink.Handle
}

// NewNetNS makes a network namespace in which nothing but the loopback is, and
// that is up. It goes when the test ends, if nobody else is in it.
func NewNetNS(t T) *NetNS {
	t.Helper()
	var file *os.File
	err := thread.Do(func() error {
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			file, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	})
	if err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
	ns := wrapNetNS(t, file)
	lo, err := ns.LinkByName("lo")
	if err == nil {
		err = ns.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatalf("setting the loopback up: %v", err)
	}
	return ns
}

// OpenNetNS opens the network namespace of a process.
func OpenNetNS(t T, pid int) *NetNS {
	t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatalf("opening a network namespace: %v", err)
	}
	return wrapNetNS(t, file)
}

func wrapNetNS(t T, file *os.File) *NetNS {
	t.Helper()
	t.Cleanup(func() { file.Close() })
	handle, err := netlink.NewHandleAt(netns.NsHandle(file.Fd()))
	if err != nil {
		t.Fatalf("talking to a network namespace: %v", err)
	}
	t.Cleanup(handle.Close)
	return &NetNS{file: file, Handle: handle}
}

// Path is a path of the namespace that holds as long as the test's process does.
func (n *NetNS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Do runs a function in the namespace. Sockets that it makes stay there.
func (n *NetNS) Do(do func() error) error {
	return thread.Do(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering a network namespace: %w", err)
		}
		return do()
	})
}

// Dial connects as a process in the namespace does.
func (n *NetNS) Dial(network, address string, limit time.Duration) (conn net.Conn, err error) {
	err = n.Do(func() error {
		conn, err = net.DialTimeout(network, address, limit)
		return err
	})
	return conn, err
}

// Veth joins the namespace to another by a veth, whose end there is called name
// and has the addresses, this one's end the name outer and the others. All are up.
func (n *NetNS) Veth(t T, outer string, outerAddresses []string, to *NetNS, name string, addresses []string) {
	t.Helper()
	n.VethOf(t, nil, outer, outerAddresses, to, name, addresses)
}

// VethOf is Veth with the address of the end there.
func (n *NetNS) VethOf(t T, mac net.HardwareAddr, outer string, outerAddresses []string, to *NetNS, name string, addresses []string) {
	t.Helper()
	attributes := netlink.NewLinkAttrs()
	attributes.Name = outer
	err := n.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: name, PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(to.file.Fd())})
	if err != nil {
		t.Fatalf("making a veth: %v", err)
	}
	n.Address(t, outer, outerAddresses...)
	to.Address(t, name, addresses...)
}

// Address gives a link addresses, in CIDR form, and sets it up.
func (n *NetNS) Address(t T, name string, addresses ...string) {
	t.Helper()
	link, err := n.LinkByName(name)
	for _, a := range addresses {
		if err != nil {
			break
		}
		prefix := netip.MustParsePrefix(a)
		flags := 0
		if prefix.Addr().Is6() {
			flags = unix.IFA_F_NODAD // or it may not be used for seconds
		}
		err = n.AddrAdd(link, &netlink.Addr{Flags: flags, IPNet: &net.IPNet{
			IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
		}})
	}
	if err == nil {
		err = n.LinkSetUp(link)
	}
	if err != nil {
		t.Fatalf("setting up %s: %v", name, err)
	}
}
