package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// testGuest is a real guest: QEMU with a real kernel and the agent of this
// checkout, and a root file system made of busybox in the guest's image.
type testGuest struct {
	owner    testing.TB // whose end is the guest's
	session  *channel.Session
	api      agentv1.AgentClient
	listener *net.UnixListener
	console  string
	phases   []*agentv1.Phase
	probe    bool // before each session

	mu     sync.Mutex
	nextID uint64
}

const guestRootfs = "/ctr/rootfs"

// kernels are the guest kernels to test with, as `make` leaves them.
func kernels(t testing.TB) []string {
	output := os.Getenv("HYPER_OUTPUT")
	if output == "" {
		t.Skip("HYPER_OUTPUT does not say where the guest kernels are: run `make test`")
	}
	for _, tool := range []string{"qemu-system-x86_64", "busybox"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s on this machine: run `make setup`", tool)
		}
	}
	var found []string
	for _, name := range []string{"hyperkernel", "cloud"} {
		dir := filepath.Join(output, "share/hyper", name)
		if _, err := os.Stat(filepath.Join(dir, "vmlinux")); err == nil {
			found = append(found, dir)
		}
	}
	if len(found) == 0 {
		t.Skipf("no guest kernel below %s/share/hyper: run `make guest`", output)
	}
	return found
}

// buildAgent builds the agent as `make agent` does.
func buildAgent(t testing.TB) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "hyper-agent")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "seccomp netgo osusergo",
		"-ldflags", `-s -w -linkmode external -extldflags "-static"`, "-o", out, "../cmd/hyper-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v\n%s", err, msg)
	}
	return out
}

// startGuest boots a guest and configures it. HYPER_TEST_KERNEL_ARGS is for one
// who experiments: it is appended to the kernel command line.
func startGuest(t testing.TB, kernelDir, agent string) *testGuest {
	t.Helper()
	dir := t.TempDir()
	initrd := filepath.Join(dir, "initrd")
	writeInitrd(t, initrd, kernelDir, agent)
	g := &testGuest{owner: t, console: filepath.Join(dir, "console"), nextID: 1}
	socket := filepath.Join(dir, "agent.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	g.listener = l.(*net.UnixListener)
	cmd := exec.Command("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", "tcg,thread=single", "-machine", "q35,usb=off,vmport=off,smbus=off,sata=off,hpet=off,graphics=off,i8042=off",
		"-cpu", "max,-erms", "-smp", "4", "-m", "512", "-bios", "/usr/share/qemu/qboot.rom",
		"-kernel", filepath.Join(kernelDir, "vmlinux"), "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests maxcpus=1 hyper.channel=serial "+clockArgs()+os.Getenv("HYPER_TEST_KERNEL_ARGS"),
		"-serial", "file:"+g.console,
		"-device", "virtio-rng-pci",
		"-chardev", "socket,reconnect=1,id=agent,path="+socket,
		// Networks of QEMU's own that reach nothing, but an echo on the first.
		"-netdev", "user,id=net0,restrict=on,ipv6=off,guestfwd=tcp:10.0.2.100:7-cmd:cat",
		"-device", "virtio-net-pci,netdev=net0,romfile=,mac="+testMACs[0],
		"-netdev", "user,id=net1,restrict=on,ipv6=off",
		"-device", "virtio-net-pci,netdev=net1,romfile=,mac="+testMACs[1],
		"-device", "virtio-serial-pci,max_ports=2", "-device", "virtserialport,chardev=agent,name=hyper.agent")
	var qemuErr bytes.Buffer
	cmd.Stderr = &qemuErr
	startWithUs(t, cmd)
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			log, _ := os.ReadFile(g.console)
			t.Logf("guest console:\n%s\nqemu: %s", log, qemuErr.String())
		}
	})
	g.connect(t)
	return g
}

// startWithUs starts a command that the kernel kills when this process ends, however
// it does. That is told by the end of the thread which started it: so that thread
// stays until the test has ended.
func startWithUs(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		<-done
	}()
	t.Cleanup(func() { close(done) })
	if err := <-started; err != nil {
		t.Fatal(err)
	}
}

// reconnect ends the session and begins a new one.
func (g *testGuest) reconnect(t testing.TB) {
	t.Helper()
	g.session.Close()
	g.connect(t)
}

// clockArgs spare the guest to measure an emulated clock, which can fail.
func clockArgs() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	_, after, _ := strings.Cut(string(info), "cpu MHz")
	value, _, _ := strings.Cut(after, "\n")
	mhz, err := strconv.ParseFloat(strings.Trim(value, "\t: "), 64)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("tsc=reliable tsc_early_khz=%.0f lpj=%.0f ", mhz*1000, mhz*1e6/250)
}

func (g *testGuest) connect(t testing.TB) {
	t.Helper()
	g.listener.SetDeadline(time.Now().Add(20 * time.Second))
	conn, err := g.listener.Accept()
	if err != nil {
		t.Fatalf("QEMU does not connect: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if g.probe {
		if err := channel.Probe(ctx, conn); err != nil {
			t.Fatalf("probing the guest: %v", err)
		}
	}
	session, err := channel.Connect(ctx, conn)
	if err != nil {
		log, _ := os.ReadFile(g.console)
		t.Fatalf("no session with the agent: %v\nguest console:\n%s", err, log)
	}
	g.owner.Cleanup(func() { session.Close() })
	g.session = session
	stream, err := session.Open(t.Context(), channel.Header{Kind: channel.Control})
	if err != nil {
		t.Fatal(err)
	}
	rpc := ttrpc.NewClient(stream)
	g.owner.Cleanup(func() { rpc.Close() })
	g.api = agentv1.NewAgentClient(rpc)
	res, err := g.api.Configure(ctx, &agentv1.ConfigureRequest{
		Now: timestamppb.Now(), Hostname: "guest", Entropy: bytes.Repeat([]byte{7}, 64),
	})
	if err != nil {
		t.Fatalf("Configure: %v", err)
	}
	g.phases = res.GetPhases()
	t.Logf("agent %s, kernel %s, phases %v", res.AgentVersion, res.KernelRelease, res.Phases)
}

// writeInitrd puts the agent and a root file system after the image that the
// kernel has of its own, if any, for its modules: of two files of a name the
// kernel takes the later.
func writeInitrd(t testing.TB, path, kernelDir, agent string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if base, err := os.ReadFile(filepath.Join(kernelDir, "initrd.img")); err == nil {
		if _, err := f.Write(base); err != nil {
			t.Fatal(err)
		}
	}
	w := &cpioWriter{w: f}
	agentData, err := os.ReadFile(agent)
	if err != nil {
		t.Fatal(err)
	}
	busyboxPath, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile(busyboxPath)
	if err != nil {
		t.Fatal(err)
	}
	w.file("init", 0o100755, agentData)
	for _, dir := range []string{"", "/bin", "/proc", "/sys", "/dev", "/etc", "/tmp", "/root", "/vol"} {
		w.file(strings.TrimPrefix(guestRootfs+dir, "/"), 0o040755, nil)
	}
	root := strings.TrimPrefix(guestRootfs, "/")
	w.file(root+"/bin/busybox", 0o104755, busybox)
	applets, err := exec.Command(busyboxPath, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			w.file(root+"/bin/"+applet, 0o120777, []byte("busybox"))
		}
	}
	w.file(root+"/etc/passwd", 0o100644, []byte("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n"))
	w.file(root+"/etc/group", 0o100644, []byte("root:x:0:\nuser:x:1000:\n"))
	w.file("TRAILER!!!", 0, nil)
	if w.err != nil {
		t.Fatal(w.err)
	}
}

// cpioWriter writes a newc archive.
type cpioWriter struct {
	w    io.Writer
	n    int
	ino  int
	dirs map[string]bool
	err  error
}

func (c *cpioWriter) file(name string, mode uint32, data []byte) {
	if c.dirs == nil {
		c.dirs = map[string]bool{".": true}
	}
	if parent := filepath.Dir(name); !c.dirs[parent] {
		c.file(parent, 0o040755, nil)
	}
	if mode&0o170000 == 0o040000 {
		c.dirs[name] = true
	}
	c.ino++
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	c.write([]byte(head))
	c.pad()
	c.write(data)
	c.pad()
}

func (c *cpioWriter) write(p []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(p)
		c.n += len(p)
	}
}

func (c *cpioWriter) pad() { c.write(make([]byte, (4-c.n%4)%4)) }

// stdioStreams are the host's ends of a process's streams.
type stdioStreams struct {
	want                  *agentv1.Streams
	stdin, stdout, stderr net.Conn
}

// open opens the streams named by letters: i, o, e, and t for a terminal.
func (g *testGuest) open(t testing.TB, which string) *stdioStreams {
	t.Helper()
	s := &stdioStreams{want: &agentv1.Streams{Terminal: strings.Contains(which, "t")}}
	one := func(id *uint64) net.Conn {
		g.mu.Lock()
		*id = g.nextID
		g.nextID++
		g.mu.Unlock()
		conn, err := g.session.Open(t.Context(), channel.Header{Kind: channel.Stdio, ID: *id})
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(testPatience))
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	if strings.Contains(which, "i") {
		s.stdin = one(&s.want.Stdin)
	}
	if strings.Contains(which, "o") {
		s.stdout = one(&s.want.Stdout)
	}
	if strings.Contains(which, "e") {
		s.stderr = one(&s.want.Stderr)
	}
	return s
}

// testSpec is an OCI spec like the one ctr makes.
func testSpec(id string, args ...string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: guestRootfs},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin", "HOME=/root"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
		},
		Hostname: "ctr-" + id,
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
			{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/hyper/" + id,
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"}, {Type: "cgroup"},
			},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/scsi"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// allCapabilities are all that there are.
// guestPIDsSpec is a container among all processes of the guest.
func guestPIDsSpec(id string, args ...string) *specs.Spec {
	spec := testSpec(id, args...)
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	return spec
}

// rootSpec is one that may do to them what root may.
func rootSpec(id string, args ...string) *specs.Spec {
	spec := guestPIDsSpec(id, args...)
	spec.Process.Capabilities = allCapabilities()
	return spec
}

func allCapabilities() *specs.LinuxCapabilities {
	list := capability.ListKnown()
	names := make([]string, len(list))
	for i, c := range list {
		names[i] = "CAP_" + strings.ToUpper(c.String())
	}
	return &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
}

// testPatience bounds every wait of a test for its guest.
const testPatience = 60 * time.Second

// testCtx bounds one test's calls.
func testCtx(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	t.Cleanup(cancel)
	return ctx
}

func (g *testGuest) create(t testing.TB, id string, spec *specs.Spec, s *stdioStreams) error {
	t.Helper()
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.api.CreateContainer(testCtx(t), &agentv1.CreateContainerRequest{ContainerId: id, Spec: data, Streams: s.want})
	if err == nil {
		t.Cleanup(func() { g.delete(t, id) })
	}
	return err
}

// delete deletes a container that may be deleted already.
func (g *testGuest) delete(t testing.TB, id string) {
	t.Helper()
	_, err := g.api.DeleteProcess(testCtx(t), &agentv1.ProcessRef{ContainerId: id})
	if err != nil && !strings.Contains(err.Error(), "not found") {
		t.Errorf("deleting container %s: %v", id, err)
	}
}

// readAll reads a stream to its end in the background.
func readAll(s net.Conn) <-chan string {
	out := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(s)
		out <- string(data)
	}()
	return out
}

// run runs a container to its end and returns what it wrote.
func (g *testGuest) run(t testing.TB, id string, spec *specs.Spec) (exit *agentv1.Exit, stdout, stderr string) {
	t.Helper()
	ctx := testCtx(t)
	s := g.open(t, "oe")
	if err := g.create(t, id, spec, s); err != nil {
		t.Fatalf("CreateContainer: %v", err)
	}
	ref := &agentv1.ProcessRef{ContainerId: id}
	out, errs := readAll(s.stdout), readAll(s.stderr)
	if _, err := g.api.StartProcess(ctx, ref); err != nil {
		t.Fatalf("StartProcess: %v", err)
	}
	exit, err := g.api.WaitProcess(ctx, ref)
	if err != nil {
		t.Fatalf("WaitProcess: %v", err)
	}
	stdout, stderr = <-out, <-errs
	g.delete(t, id)
	return exit, stdout, stderr
}

// shell runs a command line with the shell of a container.
func (g *testGuest) shell(t testing.TB, id, script string) (status uint32, stdout string) {
	t.Helper()
	exit, out, errs := g.run(t, id, testSpec(id, "sh", "-c", script))
	if errs != "" {
		t.Logf("stderr: %s", errs)
	}
	return exit.GetStatus(), out
}
