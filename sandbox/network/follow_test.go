package network

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

func TestFollow(t *testing.T) {
	pod, _ := newPod(t)
	networks := follow(t, pod)
	next := func(want string) {
		t.Helper()
		for {
			select {
			case n := <-networks:
				if describe(n) == unindent(want) {
					return
				}
				// A change of several steps may be seen half-way.
				t.Logf("seen on the way:\n%s", describe(n))
			case <-time.After(waitLimit):
				t.Fatalf("nothing came that says\n%s", want)
			}
		}
	}
	next("eth0 02:00:00:00:00:05 1500")
	ip(t, pod, "addr add 10.88.0.5/24 dev eth0")
	next("eth0 02:00:00:00:00:05 1500 10.88.0.5/24")
	ip(t, pod, "route add default via 10.88.0.1")
	next(`eth0 02:00:00:00:00:05 1500 10.88.0.5/24
		0.0.0.0/0 via 10.88.0.1 eth0 scope 0 metric 0`)
	ip(t, pod, `
		link add net1 address 02:00:00:00:00:06 type veth peer name other
		link set net1 up
		addr add 10.89.0.5/24 dev net1
		addr add 2001:db8::5/64 dev net1 nodad
		neigh add 10.89.0.1 lladdr 02:00:00:00:00:01 dev net1 nud permanent`)
	next(`eth0 02:00:00:00:00:05 1500 10.88.0.5/24
		net1 02:00:00:00:00:06 1500 10.89.0.5/24 2001:db8::5/64
		0.0.0.0/0 via 10.88.0.1 eth0 scope 0 metric 0
		neighbour 10.89.0.1 02:00:00:00:00:01 net1`)
	ip(t, pod, "link del net1")
	next(`eth0 02:00:00:00:00:05 1500 10.88.0.5/24
		0.0.0.0/0 via 10.88.0.1 eth0 scope 0 metric 0`)
	ip(t, pod, "link set eth0 mtu 1400")
	next(`eth0 02:00:00:00:00:05 1400 10.88.0.5/24
		0.0.0.0/0 via 10.88.0.1 eth0 scope 0 metric 0`)
}

// TestFollowIgnoresWhatIsNothingToTheGuest makes noise, then one change: the change
// must be what comes next.
func TestFollowIgnoresWhatIsNothingToTheGuest(t *testing.T) {
	pod, _ := newPod(t)
	networks := follow(t, pod)
	<-networks
	for range 3 {
		tap := join(t, pod, "eth0", 2)
		ip(t, pod, "neigh add 10.88.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud stale")
		ip(t, pod, "neigh del 10.88.0.9 dev eth0")
		if err := tap.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ip(t, pod, "link set eth0 mtu 1400")
	select {
	case n := <-networks:
		if got, want := describe(n), "eth0 02:00:00:00:00:05 1400\n"; got != want {
			t.Errorf("the next that came is\n%s, want\n%s", got, want)
		}
	case <-time.After(waitLimit):
		t.Error("the change was missed")
	}
}

// TestFollowSurvivesLostEvents makes more events than the socket holds while nobody
// reads them.
func TestFollowSurvivesLostEvents(t *testing.T) {
	pod, _ := newPod(t)
	events, err := pod.subscribe()
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if err := setReceiveBuffer(events, 1); err != nil { // the kernel's least, about 2 KiB
		t.Fatal(err)
	}
	for range 20 {
		ip(t, pod, "link set eth0 mtu 1400\nlink set eth0 mtu 1500")
	}
	lost, err := eventsWereLost(events)
	if err != nil || !lost {
		t.Fatalf("the test lost no events: %v", err)
	}
	for range 20 {
		ip(t, pod, "link set eth0 mtu 1400\nlink set eth0 mtu 1500")
	}
	if err := awaitEvents(events); err != nil {
		t.Errorf("waiting after events were lost: %v", err)
	}
}

// TestFollowSeesALinkReplaced replaces a link by one that looks the same while
// nobody looks.
func TestFollowSeesALinkReplaced(t *testing.T) {
	pod, _ := newPod(t)
	const eth0 = "eth0 02:00:00:00:00:05 1500 10.88.0.5/24\n"
	ip(t, pod, "addr add 10.88.0.5/24 dev eth0")
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	var indexes []int
	err := pod.Follow(ctx, func(n virtcontainers.Network) {
		if got := describe(n); got != eth0 {
			t.Errorf("Follow saw %q, want %q", got, eth0)
			cancel()
			return
		}
		indexes = append(indexes, n.Interfaces[0].Index)
		if len(indexes) > 1 {
			cancel()
			return
		}
		ip(t, pod, `
			link del eth0
			link add eth0 address 02:00:00:00:00:05 type veth peer name veth1
			link set eth0 up
			addr add 10.88.0.5/24 dev eth0`)
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Follow ended with %v", err)
	}
	if len(indexes) != 2 || indexes[0] == indexes[1] {
		t.Errorf("Follow saw eth0 with the indexes %v", indexes)
	}
}

func TestFollowEnds(t *testing.T) {
	pod, _ := newPod(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := pod.Follow(ctx, func(virtcontainers.Network) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Follow ended with %v", err)
	}
}

// follow follows a namespace until the test ends.
func follow(t *testing.T, n *Namespace) <-chan virtcontainers.Network {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	networks := make(chan virtcontainers.Network)
	done := make(chan error, 1)
	go func() {
		done <- n.Follow(ctx, func(n virtcontainers.Network) {
			select {
			case networks <- n:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("following ended with %v", err)
		}
	})
	return networks
}

func setReceiveBuffer(f *os.File, bytes int) error {
	return control(f, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
	})
}

// eventsWereLost takes the socket's error, which says so.
func eventsWereLost(f *os.File) (lost bool, err error) {
	err = control(f, func(fd int) error {
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		lost = syscall.Errno(code) == unix.ENOBUFS
		return err
	})
	return lost, err
}

func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return err
	}
	return failed
}
