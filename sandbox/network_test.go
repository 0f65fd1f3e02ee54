package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
	"github.com/hyperhq/hyper/qemu/process/thread"
	"github.com/hyperhq/hyper/virtcontainers"
)

// stubborn takes cards as a machine does, and neither takes nor lets go of those of
// which it is told so, by their MAC addresses: at once, or when there is no more time.
type stubborn struct {
	mu           sync.Mutex
	has          map[string]string // MAC addresses by the cards' ids
	refuse, hang map[string]bool
	asked        int // to let go
}

var errStubborn = errors.New("no")

func (s *stubborn) AttachNIC(_ context.Context, nic virtcontainers.NIC) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse[nic.MAC.String()] {
		return errStubborn
	}
	s.has[nic.ID] = nic.MAC.String()
	return nil
}

func (s *stubborn) DetachNIC(ctx context.Context, id string) error {
	s.mu.Lock()
	hangs := s.hang[s.has[id]]
	s.mu.Unlock()
	if hangs {
		<-ctx.Done()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.refuse[s.has[id]] || ctx.Err() != nil {
		return errors.Join(errStubborn, ctx.Err())
	}
	delete(s.has, id)
	return nil
}

// networkTest is a namespace of its own whose interfaces go to a stubborn machine.
type networkTest struct {
	*guestNetwork
	handle  *netlink.Handle
	machine *stubborn
	told    []string // names of the interfaces that the agent was last told of
	close   func() error
}

func newNetworkTest(t *testing.T) *networkTest {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	var file *os.File
	if err := thread.Do(func() error {
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			file, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	n, err := openGuestNetwork(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), log.L)
	if err != nil {
		t.Fatal(err)
	}
	once := sync.OnceValue(n.close)
	t.Cleanup(func() {
		if err := once(); err != nil {
			t.Error(err)
		}
	})
	handle, err := netlink.NewHandleAt(netns.NsHandle(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(handle.Close)
	test := &networkTest{guestNetwork: n, handle: handle, close: once, machine: &stubborn{has: map[string]string{}, refuse: map[string]bool{}, hang: map[string]bool{}}}
	n.slots, n.queues = test.machine, 1
	n.tell = func(_ context.Context, r *agentv1.SetNetworkRequest) error {
		test.told = nil
		for _, i := range r.Interfaces {
			test.told = append(test.told, i.Name)
		}
		return nil
	}
	return test
}

// macOf is the address of a test's interface: its name has one letter.
func macOf(name string) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, name[0]} }

func (n *networkTest) add(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.Flags = name, macOf(name), net.FlagUp
		if err := n.handle.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "peer"}); err != nil {
			t.Fatal(err)
		}
	}
}

func (n *networkTest) remove(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		link, err := n.handle.LinkByName(name)
		if err == nil {
			err = n.handle.LinkDel(link)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// check has the guest's network follow, and compares what fails, which cards the machine
// has then, and what the agent was told.
func (n *networkTest) check(t *testing.T, when string, fails, cards, told string) {
	t.Helper()
	n.checkIn(t, t.Context(), when, fails, cards, told)
}

func (n *networkTest) checkIn(t *testing.T, ctx context.Context, when string, fails, cards, told string) {
	t.Helper()
	err := n.settle(ctx)
	for name := range strings.FieldsSeq(fails) {
		if err == nil || !strings.Contains(err.Error(), "interface "+name+" ") || !errors.Is(err, errStubborn) {
			t.Errorf("%s: the failure does not tell of %s: %v", when, name, err)
		}
	}
	if fails == "" && err != nil {
		t.Errorf("%s: %v", when, err)
	}
	var has []string
	for _, mac := range slices.Sorted(maps.Values(n.machine.has)) {
		address, err := net.ParseMAC(mac)
		if err != nil {
			t.Fatal(err)
		}
		has = append(has, string(address[5]))
	}
	if got := strings.Join(has, " "); got != cards {
		t.Errorf("%s: the machine has the cards of %q, want %q", when, got, cards)
	}
	if got := strings.Join(n.told, " "); got != told {
		t.Errorf("%s: the agent was told of %q, want %q", when, got, told)
	}
}

// TestNetworkGoesOn has one of several cards not come or not go: the others do.
func TestNetworkGoesOn(t *testing.T) {
	t.Run("a card stays", func(t *testing.T) {
		n := newNetworkTest(t)
		n.add(t, "a", "b", "c", "d")
		n.check(t, "at first", "", "a b c d", "a b c d")
		n.machine.refuse[macOf("b").String()] = true
		n.remove(t, "b", "c", "d")
		n.check(t, "b stays", "b", "a b", "a")
		n.add(t, "e")
		n.check(t, "another comes while b stays", "b", "a b e", "a e")
		delete(n.machine.refuse, macOf("b").String())
		n.check(t, "b goes", "", "a e", "a e")
	})
	t.Run("a card takes all the time", func(t *testing.T) {
		n := newNetworkTest(t)
		n.add(t, "a", "b", "c", "d", "e", "f")
		n.check(t, "at first", "", "a b c d e f", "a b c d e f")
		n.machine.hang[macOf("b").String()] = true
		n.remove(t, "b", "c", "d", "e", "f")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n.checkIn(t, ctx, "b does not answer", "b", "a b", "a")
		delete(n.machine.hang, macOf("b").String())
		n.check(t, "b goes", "", "a", "a")
	})
	t.Run("a card does not come", func(t *testing.T) {
		n := newNetworkTest(t)
		n.machine.refuse[macOf("a").String()] = true
		n.add(t, "a", "b", "c")
		n.check(t, "a does not come", "a", "b c", "b c")
		n.remove(t, "c")
		n.check(t, "another goes", "a", "b", "b")
		delete(n.machine.refuse, macOf("a").String())
		n.check(t, "a comes", "", "a b", "a b")
	})
	t.Run("a replaced card stays", func(t *testing.T) {
		n := newNetworkTest(t)
		n.add(t, "a", "b")
		n.check(t, "at first", "", "a b", "a b")
		n.machine.refuse[macOf("a").String()] = true
		n.remove(t, "a", "b")
		n.add(t, "a", "b", "c")
		n.check(t, "two were replaced, a stays", "a", "a b c", "b c")
		delete(n.machine.refuse, macOf("a").String())
		n.check(t, "a goes", "", "a b c", "a b c")
	})
}

// TestCloseOfANetworkThatChanges closes it in the middle of a change.
func TestCloseOfANetworkThatChanges(t *testing.T) {
	n := newNetworkTest(t)
	n.add(t, "a")
	telling, goOn := make(chan struct{}), make(chan struct{})
	n.tell = func(context.Context, *agentv1.SetNetworkRequest) error {
		close(telling)
		<-goOn
		return nil
	}
	changed, closed := make(chan error, 1), make(chan error, 1)
	go func() { changed <- n.sync(t.Context()) }()
	select {
	case <-telling:
	case err := <-changed:
		t.Fatalf("the guest is told of nothing: %v", err)
	}
	go func() { closed <- n.close() }()
	<-n.closing
	select {
	case err := <-closed:
		t.Fatalf("it is closed before the change has ended: %v", err)
	case err := <-changed:
		t.Fatalf("the change has ended: %v", err)
	default:
	}
	close(goOn)
	if err := errors.Join(<-changed, <-closed); err != nil {
		t.Error(err)
	}
	if err := n.sync(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("a change after it: %v", err)
	}
}
