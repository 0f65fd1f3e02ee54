package qemu

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/log"
	"go.uber.org/goleak"

	"github.com/hyperhq/hyper/virtcontainers"
)

// privateEnv says that the tests run in a mount namespace of their own.
const privateEnv = "HYPER_TEST_PRIVATE"

// outputEnv names a directory with what `make` built: kernels and images.
const outputEnv = "HYPER_OUTPUT"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(parentEnv) != "":
		beParent()
	case os.Geteuid() == 0 && os.Getenv(privateEnv) == "":
		os.Exit(runPrivately())
	default:
		goleak.VerifyTestMain(m)
	}
}

// runPrivately runs the tests in a mount namespace of their own, so that no mount
// of theirs can be left behind.
func runPrivately() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), privateEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(cmd.ProcessState.ExitCode(), 1)
	}
	return 0
}

// testKernel is a kernel that has built in what the test guest needs, or a skip.
func testKernel(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(outputEnv)
	if dir == "" {
		t.Skipf("%s does not name the output of `make`: there is no guest kernel to boot", outputEnv)
	}
	path := filepath.Join(dir, "share/hyper/hyperkernel/vmlinux")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("there is no guest kernel to boot: %v: `make kernel` builds it", err)
	}
	return path
}

// newDriver returns a driver for this host's QEMU, or skips.
func newDriver(t *testing.T, cfg Config) *Driver {
	t.Helper()
	if _, err := exec.LookPath(binaryName); err != nil {
		t.Skipf("no QEMU here: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can run QEMU as another user")
	}
	d, err := New(cfg, log.L)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// buildGuest builds the test guest's program once for all tests.
var buildGuest = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "hyper-testguest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "./internal/testguest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(path)
})

// testImage writes an image with the test guest as its init.
func testImage(t *testing.T) string {
	t.Helper()
	guest, err := buildGuest()
	if err != nil {
		t.Fatalf("build the test guest: %v", err)
	}
	var b bytes.Buffer
	cpioEntry(&b, "dev", 0o40755, nil)
	cpioEntry(&b, "init", 0o100755, guest)
	cpioEntry(&b, "TRAILER!!!", 0, nil)
	path := filepath.Join(t.TempDir(), "initrd.img")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// cpioEntry appends one file in the "newc" format.
func cpioEntry(b *bytes.Buffer, name string, mode int, data []byte) {
	pad := func() { b.Write(make([]byte, (4-b.Len()%4)%4)) }
	// inode, mode, uid, gid, links, mtime, size, device and its node, name's length, checksum
	fmt.Fprintf(b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		b.Len(), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	b.WriteString(name + "\x00")
	pad()
	b.Write(data)
	pad()
}

func testSpec(t *testing.T) virtcontainers.VMSpec {
	t.Helper()
	return virtcontainers.VMSpec{
		ID:        strings.ReplaceAll(t.Name(), "/", "-"),
		Dir:       t.TempDir(),
		VCPUs:     1,
		MemoryMiB: 128,
		Kernel:    testKernel(t),
		Image:     testImage(t),
	}
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

// start starts a machine that ends with the test.
func start(t *testing.T, d *Driver, spec virtcontainers.VMSpec) virtcontainers.VM {
	t.Helper()
	vm, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := vm.Kill(ctx); err != nil {
			t.Error(err)
		}
	})
	return vm
}

// guest is the line by line conversation with a test guest.
type guest struct {
	conn  net.Conn
	lines *bufio.Reader
	vm    virtcontainers.VM
}

// bootTimeout is far more than a boot takes, even on a busy host without KVM.
const bootTimeout = 60 * time.Second

func connect(t *testing.T, vm virtcontainers.VM) *guest {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	conn, err := vm.Channel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(vm.Log())
		}
	})
	return &guest{conn: conn, lines: bufio.NewReader(conn), vm: vm}
}

// ask sends a command and returns the answer without its "ok".
func (g *guest) ask(t *testing.T, words ...string) string {
	t.Helper()
	answer, err := g.try(words...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", words, err, g.vm.Log())
	}
	return answer
}

func (g *guest) try(words ...string) (string, error) {
	if err := g.conn.SetDeadline(time.Now().Add(bootTimeout)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(g.conn, strings.Join(words, " ")+"\n"); err != nil {
		return "", err
	}
	line, err := g.lines.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSpace(line)
	if rest, ok := strings.CutPrefix(line, "ok"); ok {
		return strings.TrimSpace(rest), nil
	}
	return "", fmt.Errorf("the guest answered %q", line)
}
