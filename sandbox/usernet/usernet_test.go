package usernet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/process"
	"github.com/hyperhq/hyper/qemu/process/thread"
)

const (
	// patience bounds what takes milliseconds on an idle machine.
	patience = 20 * time.Second
	// hostAddress4 and hostAddress6 are the host's, of which there is nothing but
	// this test's process.
	hostAddress4 = "10.56.0.2"
	hostAddress6 = "fd56::2"
	// insideVariable says that this process has its namespaces already.
	insideVariable = "HYPER_TEST_NETNS"
)

// TestMain begins the tests anew in namespaces of their own: a host with a default
// route, whose mounts nobody else sees.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(insideVariable) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err := thread.Do(cmd.Run)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "giving the tests namespaces of their own:", err)
		os.Exit(1)
	}
}

// needHost skips a test where it cannot run, and gives the host its routes.
func needHost(t *testing.T, families Families) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	link := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "wan0"}
	link.Name = "up0"
	steps := []func() error{
		func() error { return setUp("lo") },
		func() error { return netlink.LinkAdd(link) },
		func() error { return setUp("wan0") },
		func() error { return setUp("up0") },
	}
	if families.IPv4 {
		steps = append(steps, func() error { return giveRoute(link, hostAddress4+"/24", "10.56.0.1") })
	}
	if families.IPv6 {
		// The kernel gives it one of these too, but later.
		steps = append(steps, func() error { return giveAddress(link, "fe80::2/64") })
		steps = append(steps, func() error { return giveRoute(link, hostAddress6+"/64", "fd56::1") })
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("preparing the host, step %d: %v", i, err)
		}
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(link); err != nil {
			t.Errorf("removing the host's network: %v", err)
		}
	})
}

func giveRoute(link netlink.Link, address, gateway string) error {
	if err := giveAddress(link, address); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway)})
}

func giveAddress(link netlink.Link, address string) error {
	ip, network, err := net.ParseCIDR(address)
	if err != nil {
		return err
	}
	flags := 0
	if ip.To4() == nil {
		flags = unix.IFA_F_NODAD // or it may not be used for seconds
	}
	network.IP = ip
	return netlink.AddrAdd(link, &netlink.Addr{IPNet: network, Flags: flags})
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// pod is a network namespace in which nothing is.
type pod struct{ file *os.File }

func newPod(t *testing.T) pod {
	t.Helper()
	var p pod
	err := thread.Do(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		p.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
	t.Cleanup(func() { p.file.Close() })
	return p
}

func (p pod) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.file.Fd()) }

// do runs a function in the namespace.
func (p pod) do(do func() error) error {
	return thread.Do(func() error {
		if err := unix.Setns(int(p.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return do()
	})
}

// awaitRoutes waits for the last things that the program adds.
func (p pod) awaitRoutes(t *testing.T, d *Daemon) {
	t.Helper()
	events, done := make(chan netlink.RouteUpdate), make(chan struct{})
	err := netlink.RouteSubscribeWithOptions(events, done, netlink.RouteSubscribeOptions{Namespace: nsHandle(p.file), ListExisting: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { // or what reads the events would wait for us
		close(done)
		for range events {
		}
	}()
	limit := time.After(patience)
	for got := (Families{}); got != d.Families(); {
		select {
		case e := <-events:
			if e.Type == unix.RTM_NEWROUTE && e.Gw != nil {
				got.IPv4 = got.IPv4 || e.Family == netlink.FAMILY_V4
				got.IPv6 = got.IPv6 || e.Family == netlink.FAMILY_V6
			}
		case <-d.Done():
			t.Fatalf("the program has ended: %v", d.Err())
		case <-limit:
			t.Fatalf("the namespace has not got default routes of %v", d.Families())
		}
	}
}

func nsHandle(file *os.File) *netns.NsHandle {
	h := netns.NsHandle(file.Fd())
	return &h
}

// wantNothing fails if anything is left: a mount or a file of dir, or the interface.
func wantNothing(t *testing.T, dir string, p pod) {
	t.Helper()
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("left in its directory: %v, %v", files, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("there are mounts below %s, %v:\n%s", dir, err, mounts)
	}
	err = p.do(func() error {
		links, err := net.Interfaces()
		for _, link := range links {
			if link.Name != "lo" {
				err = errors.Join(err, fmt.Errorf("interface %s is left", link.Name))
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func closeDaemon(t *testing.T, d *Daemon) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := d.Close(ctx); err != nil {
		t.Errorf("closing it: %v", err)
	}
}

// startPasta starts the program itself, for a namespace of the test's.
func startPasta(t *testing.T, families Families) (d *Daemon, dir string, p pod) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skip("no pasta: install passt (`make setup`):", err)
	}
	needHost(t, families)
	dir, p = t.TempDir(), newPod(t)
	d, err := Start(Config{NetNS: p.path(), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return d, dir, p
}

// awaitEnd waits until the program has ended by itself, and returns what it is said
// to have ended of.
func awaitEnd(t *testing.T, d *Daemon) *process.ExitError {
	t.Helper()
	select {
	case <-d.Done():
	case <-time.After(patience):
		t.Fatal("the program has not ended")
	}
	var exit *process.ExitError
	if !errors.As(d.Err(), &exit) {
		t.Fatalf("it ended with %v", d.Err())
	}
	return exit
}

// TestConnections connects from the namespace, by TCP and UDP, to addresses of the
// host of which it has default routes; nothing is left once the program is closed.
func TestConnections(t *testing.T) {
	for _, families := range []Families{{IPv4: true}, {IPv6: true}, {IPv4: true, IPv6: true}} {
		t.Run(families.String(), func(t *testing.T) { testConnections(t, families) })
	}
}

func testConnections(t *testing.T, families Families) {
	d, dir, p := startPasta(t, families)
	if d.Families() != families {
		t.Fatalf("the namespace is to get %v", d.Families())
	}
	p.awaitRoutes(t, d)
	var networks []string
	if families.IPv4 {
		networks = append(networks, "tcp4", "udp4")
	}
	if families.IPv6 {
		networks = append(networks, "tcp6", "udp6")
	}
	for _, network := range networks {
		address := echo(t, network)
		var answer string
		err := p.do(func() (err error) {
			answer, err = sayHello(network, address)
			return err
		})
		if err != nil || answer != "hello" {
			t.Errorf("%s answers %q, %v", network, answer, err)
		}
	}
	closeDaemon(t, d)
	if err := d.Err(); err != nil {
		t.Errorf("after Close there is an error: %v", err)
	}
	wantNothing(t, dir, p)
}

// sayHello returns the answer. A datagram may be lost, and is sent again each second.
func sayHello(network, address string) (string, error) {
	conn, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	again := patience
	if strings.HasPrefix(network, "udp") {
		again = time.Second
	}
	var answer [5]byte
	for until := time.Now().Add(patience); ; {
		if _, err := io.WriteString(conn, "hello"); err != nil {
			return "", err
		}
		conn.SetReadDeadline(time.Now().Add(again))
		_, err := io.ReadFull(conn, answer[:])
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(until) {
			return string(answer[:]), err
		}
	}
}

// echo answers a connection, or datagrams, at an address of the host with what they say.
func echo(t *testing.T, network string) (address string) {
	t.Helper()
	ip := hostAddress4
	if strings.HasSuffix(network, "6") {
		ip = hostAddress6
	}
	any := net.JoinHostPort(ip, "0")
	if strings.HasPrefix(network, "udp") {
		conn, err := net.ListenPacket(network, any)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		go func() { // ends with the socket
			buf := make([]byte, 1500)
			for {
				n, from, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				conn.WriteTo(buf[:n], from)
			}
		}()
		return conn.LocalAddr().String()
	}
	l, err := net.Listen(network, any)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the socket, or its connection
		if conn, err := l.Accept(); err == nil {
			io.Copy(conn, conn)
			conn.Close()
		}
	}()
	return l.Addr().String()
}

// TestKilled kills the program: that is told, and what it had is gone with Close.
func TestKilled(t *testing.T) {
	d, dir, p := startPasta(t, Families{IPv4: true})
	p.awaitRoutes(t, d)
	if err := unix.Kill(d.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := awaitEnd(t, d); exit.How != "signal: killed" {
		t.Errorf("it ended by %s", exit.How)
	}
	closeDaemon(t, d)
	wantNothing(t, dir, p)
	// The namespace can be given another one.
	again, err := Start(Config{NetNS: p.path(), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	p.awaitRoutes(t, again)
	closeDaemon(t, again)
	wantNothing(t, dir, p)
}

// TestNoRoute starts the program on a host without any network.
func TestNoRoute(t *testing.T) {
	needHost(t, Families{})
	dir, p := t.TempDir(), newPod(t)
	if _, err := Start(Config{Path: "/bin/true", NetNS: p.path(), Dir: dir}); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
	wantNothing(t, dir, p)
}

// TestStartFails starts what cannot be started.
func TestStartFails(t *testing.T) {
	needHost(t, Families{IPv4: true})
	p := newPod(t)
	t.Run("no program", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		dir := t.TempDir()
		_, err := Start(Config{NetNS: p.path(), Dir: dir})
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "pasta.path") {
			t.Errorf("got %v", err)
		}
		wantNothing(t, dir, p)
	})
	t.Run("no such program", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := Start(Config{Path: filepath.Join(dir, "pasta"), NetNS: p.path(), Dir: dir}); !errdefs.IsNotFound(err) {
			t.Errorf("got %v", err)
		}
		wantNothing(t, dir, p)
	})
	t.Run("no namespace", func(t *testing.T) {
		dir := t.TempDir()
		if d, err := Start(Config{Path: "/bin/true", NetNS: filepath.Join(dir, "nothing"), Dir: dir}); err == nil {
			t.Errorf("started %d", d.PID())
		}
		wantNothing(t, dir, p)
	})
	t.Run("ends at once", func(t *testing.T) {
		dir := t.TempDir()
		d, err := Start(Config{Path: "/bin/false", NetNS: p.path(), Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if exit := awaitEnd(t, d); exit.How != "exit status 1" {
			t.Errorf("it ended by %s", exit.How)
		}
		closeDaemon(t, d)
		wantNothing(t, dir, p)
	})
}
