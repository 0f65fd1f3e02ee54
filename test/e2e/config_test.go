package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyperhq/hyper/test/harness"
)

// refusalLimit is how long it may take until a container that cannot be made is
// refused.
const refusalLimit = 5 * time.Second

// configure sets the runtime's configuration for one test.
func configure(t *testing.T, c *harness.Cell, text string) {
	t.Helper()
	if err := c.ConfigureOnly(text); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Configure(""); err != nil {
			t.Error(err)
		}
	})
}

// checkRefused makes a container that cannot be, and checks that it is refused
// soon and with what it needs for a person to act.
func checkRefused(t *testing.T, c *harness.Cell, parts []string, options ...harness.Option) {
	t.Helper()
	container := c.Container(t, append([]harness.Option{harness.Args("true")}, options...)...)
	begin := time.Now()
	task, err := container.TryCreate(t, harness.IO{})
	took := time.Since(begin)
	if err == nil {
		t.Errorf("it was made, with the process %d", task.PID)
		return
	}
	t.Logf("after %v: %v", took.Round(time.Millisecond), err)
	if took > harness.Allow(refusalLimit) {
		t.Errorf("it took %v", took)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
}

// testBrokenParts breaks each file that a virtual machine needs.
func testBrokenParts(t *testing.T, c *harness.Cell) {
	rootfsBy(t, c, "share") // or a machine may need no virtiofsd
	dir := hostDir(t, c, map[string]string{
		"garbage": strings.Repeat("this is no kernel, image or program\n", 1000), "empty": "",
		"crash": "#!/bin/sh\necho I cannot go on >&2\nexit 3\n", "not-executable": "#!/bin/sh\n",
	})
	garbage, empty, crash := filepath.Join(dir, "garbage"), filepath.Join(dir, "empty"), filepath.Join(dir, "crash")
	missing, plain := filepath.Join(dir, "missing"), filepath.Join(dir, "not-executable")
	if err := os.Chmod(crash, 0o755); err != nil {
		t.Fatal(err)
	}
	kernel, image := c.Guest()
	guest := func(kernel, image string) string {
		return fmt.Sprintf("[guest]\nkernel = %q\nimage = %q\n", kernel, image)
	}
	good := guest(kernel, image)
	for _, test := range []struct {
		name, config string
		says         []string
	}{
		{"kernel missing", guest(missing, image), []string{missing, "guest.kernel"}},
		{"kernel garbage", guest(garbage, image), []string{garbage}},
		{"kernel empty", guest(empty, image), []string{empty}},
		{"kernel a directory", guest(dir, image), []string{dir, "guest.kernel"}},
		{"image missing", guest(kernel, missing), []string{missing, "guest.image"}},
		{"image garbage", guest(kernel, garbage), []string{garbage}},
		{"image empty", guest(kernel, empty), []string{empty}},
		{"QEMU missing", good + fmt.Sprintf("[qemu]\npath = %q\n", missing), []string{missing}},
		{"QEMU not executable", good + fmt.Sprintf("[qemu]\npath = %q\n", plain), []string{plain}},
		{"QEMU ends at once", good + fmt.Sprintf("[qemu]\npath = %q\n", crash), []string{crash}},
		{"firmware missing", good + fmt.Sprintf("[qemu]\nfirmware = %q\n", missing), []string{missing}},
		{"virtiofsd missing", good + fmt.Sprintf("[virtiofsd]\npath = %q\n", missing), []string{missing}},
		{"virtiofsd not executable", good + fmt.Sprintf("[virtiofsd]\npath = %q\n", plain), []string{plain}},
		{"virtiofsd ends at once", good + fmt.Sprintf("[virtiofsd]\npath = %q\n", crash), []string{crash}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.CheckLeaks(t)
			configure(t, c, test.config)
			checkRefused(t, c, test.says)
		})
	}
	if r := c.Run(t, harness.Args("echo", "good")); r.Stdout != "good\n" {
		t.Errorf("a good run after all: %+v", r)
	}
}

// testBadConfiguration writes mistakes into the configuration file.
func testBadConfiguration(t *testing.T, c *harness.Cell) {
	for _, test := range []struct {
		name, config string
		says         []string
	}{
		{"unknown key", "[sandbox]\nmemory = 3\n", []string{"hyper.toml:2", "sandbox.memory", "memory_mib"}},
		{"bad value", "[qemu]\nmachine = \"pc\"\n", []string{"hyper.toml:2", "qemu.machine", "q35", "microvm"}},
		{"not TOML", "[sandbox\n", []string{"hyper.toml:1"}},
		{"memory too small", "[sandbox]\nmemory_mib = 8\n", []string{"hyper.toml:2", "sandbox.memory_mib", "64"}},
		{"memory too large", "[sandbox]\nmemory_mib = 99999999\n", []string{"hyper.toml:2", "sandbox.memory_mib", "host's memory"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.CheckLeaks(t)
			configure(t, c, test.config)
			checkRefused(t, c, test.says)
		})
	}
	t.Run("drop-in", func(t *testing.T) {
		c.CheckLeaks(t)
		c.DropInFor(t, "10-mistake.toml", "[sandbox]\ndebug = 3\n")
		checkRefused(t, c, []string{"10-mistake.toml:2", "sandbox.debug", "true or false"})
	})
}

const hyperAnnotation = "io.containerd.hyper.v2."

// testRefusedSizes asks for what may not be.
func testRefusedSizes(t *testing.T, c *harness.Cell) {
	for _, test := range []struct {
		name, annotation, value string
		says                    []string
	}{
		{"too little memory", "memory_mib", "16", []string{"memory_mib", "16", "64"}},
		{"more memory than there is", "memory_mib", "99999999", []string{"memory_mib", "99999999"}},
		{"no number", "vcpus", "many", []string{"vcpus", "many"}},
		{"too many processors", "vcpus", "4000", []string{"vcpus", "4000"}},
		{"unknown", "kernel", "/etc/passwd", []string{"kernel", "memory_mib", "vcpus"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.CheckLeaks(t)
			checkRefused(t, c, append(test.says, hyperAnnotation+test.annotation), harness.Annotation(hyperAnnotation+test.annotation, test.value))
		})
	}
	t.Run("not allowed", func(t *testing.T) {
		c.CheckLeaks(t)
		configure(t, c, c.GuestConfig()+"[sandbox]\nannotations = [\"vcpus\"]\n")
		checkRefused(t, c, []string{hyperAnnotation + "memory_mib", "not allowed", "vcpus"}, harness.Annotation(hyperAnnotation+"memory_mib", "128"))
	})
}

// size is what a guest has.
type size struct{ mib, cpus int }

// sizeOf asks a guest for what it has; the kernel keeps some of the memory.
func sizeOf(t *testing.T, c *harness.Cell, options ...harness.Option) size {
	t.Helper()
	options = append(options, harness.Sh("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo; grep -c ^processor /proc/cpuinfo"))
	r := c.Run(t, options...)
	lines := strings.Fields(r.Stdout)
	if r.Status != 0 || len(lines) != 2 {
		t.Fatalf("got %+v", r)
	}
	kib, err := strconv.Atoi(lines[0])
	if err != nil {
		t.Fatal(err)
	}
	cpus, err := strconv.Atoi(lines[1])
	if err != nil {
		t.Fatal(err)
	}
	return size{kib >> 10, cpus}
}

// testSizes asks for sizes in each way.
func testSizes(t *testing.T, c *harness.Cell) {
	limits := func(mib int64, quota int64) harness.Option {
		return func(s *specs.Spec) {
			period, limit := uint64(100000), mib<<20
			if mib != 0 {
				s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
			}
			if quota != 0 {
				s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
			}
		}
	}
	memory := func(mib string) harness.Option { return harness.Annotation(hyperAnnotation+"memory_mib", mib) }
	cpus := func(n string) harness.Option { return harness.Annotation(hyperAnnotation+"vcpus", n) }
	for _, test := range []struct {
		name    string
		options []harness.Option
		least   int // MiB, of which the kernel may keep 64
		most    int
		cpus    int
		usual   bool // other machines are of the same kind: there may be a template
	}{
		{"default", nil, 192, 256, 1, true},
		{"annotations", []harness.Option{memory("512"), cpus("2")}, 448, 512, 2, false},
		{"a small one", []harness.Option{memory("128")}, 64, 128, 1, false},
		{"limits raise it", []harness.Option{limits(600, 150000)}, 600, 1100, 2, false},
		{"small limits do not shrink it", []harness.Option{limits(64, 10000)}, 192, 400, 1, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.CheckLeaks(t)
			if !test.usual {
				withoutTemplates(t, c)
			}
			got := sizeOf(t, c, test.options...)
			t.Logf("%d MiB, %d processors", got.mib, got.cpus)
			if got.mib < test.least || got.mib > test.most || got.cpus != test.cpus {
				t.Errorf("got %+v, want %d to %d MiB and %d processors", got, test.least, test.most, test.cpus)
			}
		})
	}
	t.Run("configured", func(t *testing.T) {
		c.CheckLeaks(t)
		withoutTemplates(t, c)
		configure(t, c, c.GuestConfig()+"[sandbox]\nmemory_mib = 384\nvcpus = 2\n")
		if got := sizeOf(t, c); got.mib < 320 || got.mib > 384 || got.cpus != 2 {
			t.Errorf("got %+v", got)
		}
	})
}

// testMicroVM asks for the machine type that only works with KVM.
func testMicroVM(t *testing.T, c *harness.Cell) {
	configure(t, c, c.GuestConfig()+"[qemu]\nmachine = \"microvm\"\naccel = \"tcg\"\n")
	checkRefused(t, c, []string{"microvm", "q35"})
}

// testMicroVMByKVM runs a container on that machine, where KVM is.
func testMicroVMByKVM(t *testing.T, c *harness.Cell) {
	flags, err := os.ReadFile("/proc/cpuinfo")
	if _, missing := os.Stat("/dev/kvm"); missing != nil || err != nil || !regexp.MustCompile(`(?m)^flags.*\b(vmx|svm)\b`).Match(flags) {
		t.Skip("there is no KVM here that runs guests")
	}
	configure(t, c, c.GuestConfig()+"[qemu]\nmachine = \"microvm\"\naccel = \"kvm\"\n")
	if r := c.Run(t, harness.Sh("echo out; exit 7")); r.Status != 7 || r.Stdout != "out\n" {
		t.Errorf("got %+v", r)
	}
}
