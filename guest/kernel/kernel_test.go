package kernel_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperhq/hyper/guest/image"
)

// Every answer of the probe is owed by HyperKernel; a distribution leaves some to modules that are not loaded.
var guests = []struct {
	name    string
	allowed map[string]bool // what this kernel need not have
}{
	{name: "hyperkernel"},
	{name: "cloud", allowed: set("vmgenid full netfilter iptables conntrack veth bridge dummy macvlan vlan tun " +
		"memfd_secret memory-auto-online config no-modules")},
}

// TestKernels boots each guest kernel that was built, with the real kind of image and a probe as its init.
func TestKernels(t *testing.T) {
	output := os.Getenv("HYPER_OUTPUT")
	if output == "" {
		t.Skip("HYPER_OUTPUT does not say where the kernels are: run by `make test`")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip(err)
	}
	probe := filepath.Join(t.TempDir(), "probe")
	build := exec.Command("go", "build", "-o", probe, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v: %s", err, msg)
	}
	for _, guest := range guests {
		t.Run(guest.name, func(t *testing.T) {
			dir := filepath.Join(output, "share/hyper", guest.name)
			if _, err := os.Stat(dir); err != nil {
				t.Skip(err)
			}
			initrd := withInit(t, filepath.Join(dir, "initrd.img"), probe)
			console := boot(t, qemu, filepath.Join(dir, "vmlinux"), initrd)
			judge(t, console, guest.allowed)
		})
	}
}

// withInit makes a copy of a built image in which the probe is PID 1 instead of the agent, so that the modules
// tested are the ones that are shipped.
func withInit(t *testing.T, built, init string) string {
	t.Helper()
	archive, err := os.Open(built)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	entries, err := image.Read(archive)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(init)
	if err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		if entries[i].Name == "init" {
			entries[i].Data = program
		}
	}
	var b bytes.Buffer
	if err := image.Write(&b, entries); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "initrd.img")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// boot runs the guest to its end, emulated, and returns what it said on its console.
func boot(t *testing.T, qemu, kernel, initrd string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu,
		"-M", "q35,accel=tcg", "-cpu", "max", "-m", "256",
		"-bios", firmware(t), "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
		"-serial", "stdio",
		"-device", "virtio-serial-pci", "-chardev", "null,id=agent", "-device", "virtserialport,chardev=agent,name=agent",
		// No vmgenid device: qboot hangs on the table that it adds, before the kernel's first word.
		"-device", "virtio-rng-pci", "-device", "pcie-root-port,id=port0,chassis=1,slot=1",
		"-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 quiet cryptomgr.notests reboot=t panic=-1",
	)
	var console, errors bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &errors
	started := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("QEMU: %v: %s\nlast words of the guest:\n%s", err, errors.String(), tail(console.String()))
	}
	t.Logf("booted, probed and gone in %v", time.Since(started).Round(time.Millisecond))
	return console.String()
}

// firmware finds qboot, which the packages of different distributions put in different places.
func firmware(t *testing.T) string {
	t.Helper()
	for _, file := range []string{"/usr/share/qemu/qboot.rom", "/usr/share/qboot/bios.bin"} {
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	t.Skip("no qboot firmware here")
	return ""
}

func judge(t *testing.T, console string, allowed map[string]bool) {
	t.Helper()
	ended, passed := false, 0
	for line := range strings.Lines(console) {
		_, said, ok := strings.Cut(strings.TrimSpace(line), "PROBE: ")
		if !ok {
			continue
		}
		if failure, bad := strings.CutPrefix(said, "FAIL "); bad {
			if name, _, _ := strings.Cut(failure, ":"); !allowed[name] {
				t.Errorf("the kernel lacks %s", failure)
			}
			continue
		}
		if strings.HasPrefix(said, "ok ") {
			passed++
		}
		ended = ended || said == "end"
	}
	if !ended {
		t.Fatalf("the probe did not finish; last words of the guest:\n%s", tail(console))
	}
	t.Logf("%d checks passed", passed)
}

func tail(s string) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

func set(words string) map[string]bool {
	s := map[string]bool{}
	for word := range strings.FieldsSeq(words) {
		s[word] = true
	}
	return s
}
