package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

func machines(t *testing.T, test func(t *testing.T, d *Driver)) {
	for _, name := range []string{MachineQ35, MachineMicroVM} {
		t.Run(name, func(t *testing.T) {
			d := newDriver(t, Config{Machine: name})
			if err := d.checkMachine(virtcontainers.VMSpec{}); err != nil {
				t.Skip(err)
			}
			test(t, d)
		})
	}
}

func TestBoot(t *testing.T) {
	machines(t, func(t *testing.T, d *Driver) {
		spec := testSpec(t)
		spec.VCPUs = 2
		spec.KernelArgs = []string{"hyper.test=a,b"}
		begin := time.Now()
		vm := start(t, d, spec)
		started := time.Since(begin)
		g := connect(t, vm)
		// Written long before the guest listens.
		if got := g.ask(t, "ping", "hello"); got != "hello" {
			t.Errorf("the guest answered %q", got)
		}
		t.Logf("QEMU ran after %v, the guest answered after %v", started, time.Since(begin))
		if got := g.ask(t, "cmdline"); !strings.Contains(got, "hyper.channel=serial hyper.test=a,b") {
			t.Errorf("the kernel's command line is %q", got)
		}
		g.ask(t, "console", "said on the console")
		checkMonitor(t, vm.(*machine))
		if err := vm.Err(); err != nil {
			t.Errorf("Err() of a running machine = %v", err)
		}
		if _, err := vm.Channel(t.Context()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("a second Channel() = %v", err)
		}
		for range 2 {
			if err := vm.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := vm.Err(); err != nil {
			t.Errorf("Err() after Kill = %v", err)
		}
		if !strings.Contains(vm.Log(), "said on the console") {
			t.Errorf("Log() lacks the console: %s", vm.Log())
		}
		if _, err := vm.Channel(t.Context()); !errdefs.IsUnavailable(err) {
			t.Errorf("Channel() of a dead machine = %v", err)
		}
	})
}

// checkMonitor stops and continues a real machine.
func checkMonitor(t *testing.T, m *machine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, step := range []struct {
		do    func(context.Context) error
		state string
	}{{nil, "running"}, {m.monitor.Stop, "paused"}, {m.monitor.Cont, "running"}} {
		if step.do != nil {
			if err := step.do(ctx); err != nil {
				t.Error(err)
			}
		}
		if s, err := m.monitor.QueryStatus(ctx); err != nil || s.State != step.state {
			t.Errorf("QueryStatus() = %+v, %v, want %s", s, err, step.state)
		}
	}
}

func TestEnds(t *testing.T) {
	d := newDriver(t, Config{})
	for _, tc := range []struct {
		name string
		end  func(t *testing.T, vm virtcontainers.VM, g *guest)
		want []string
	}{
		{"power off", func(t *testing.T, _ virtcontainers.VM, g *guest) { _, _ = g.try("poweroff") }, []string{"powered off"}},
		{"reboot", func(t *testing.T, _ virtcontainers.VM, g *guest) { _, _ = g.try("reboot") }, []string{"reset itself"}},
		{"panic", func(t *testing.T, _ virtcontainers.VM, g *guest) { _, _ = g.try("panic") },
			[]string{"reset itself", "Kernel panic", "exitcode=0x00000700"}},
		{"QEMU killed", func(t *testing.T, vm virtcontainers.VM, _ *guest) {
			if err := syscall.Kill(vm.PID(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed := time.Now()
			<-vm.Done()
			if took := time.Since(killed); took > time.Second {
				t.Errorf("Done after %v", took)
			} else {
				t.Logf("Done after %v", took)
			}
		}, []string{"signal: killed"}},
		{"QEMU aborts", func(t *testing.T, vm virtcontainers.VM, _ *guest) {
			if err := syscall.Kill(vm.PID(), syscall.SIGABRT); err != nil {
				t.Fatal(err)
			}
		}, []string{"signal: aborted"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			vm := start(t, d, testSpec(t))
			g := connect(t, vm)
			g.ask(t, "ping")
			tc.end(t, vm, g)
			select {
			case <-vm.Done():
			case <-time.After(20 * time.Second):
				t.Fatalf("the machine lives on\n%s", vm.Log())
			}
			err := vm.Err()
			if !errdefs.IsUnavailable(err) {
				t.Errorf("Err() = %v", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("Err() = %v\nlacks %q", err, want)
				}
			}
		})
	}
}

func TestHostileConsole(t *testing.T) {
	vm := start(t, newDriver(t, Config{}), testSpec(t))
	g := connect(t, vm)
	g.ask(t, "ping")
	g.ask(t, "flood")
	got := vm.Log()
	if len(got) > 8<<10 {
		t.Errorf("Log() has %d bytes", len(got))
	}
	for _, c := range []byte(got) {
		if c != '\n' && c != '\t' && (c < ' ' || c > '~') {
			t.Fatalf("Log() contains %q", c)
		}
	}
	if !strings.Contains(got, "junk") {
		t.Errorf("Log() = %q", got)
	}
}

// TestUnprivileged reads what the kernel says of a running QEMU.
func TestUnprivileged(t *testing.T) {
	d := newDriver(t, Config{})
	spec := testSpec(t)
	// No user but root reaches these, and only root can read the second.
	private := t.TempDir()
	if err := os.Chmod(private, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[*string]os.FileMode{&spec.Kernel: 0o644, &spec.Image: 0o600} {
		data, err := os.ReadFile(*path)
		if err != nil {
			t.Fatal(err)
		}
		*path = filepath.Join(private, filepath.Base(*path))
		if err := os.WriteFile(*path, data, mode); err != nil {
			t.Fatal(err)
		}
	}
	vm := start(t, d, spec)
	connect(t, vm).ask(t, "ping")

	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", vm.PID()))
	if err != nil {
		t.Fatal(err)
	}
	status := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		status[key] = strings.Join(strings.Fields(value), " ")
	}
	id := strconv.Itoa(DefaultUIDBase + os.Getpid())
	ids := strings.Join([]string{id, id, id, id}, " ")
	for key, want := range map[string]string{
		"Uid": ids, "Gid": ids, "Groups": "", "NoNewPrivs": "1", "Seccomp": "2",
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
	} {
		if status[key] != want {
			t.Errorf("%s is %q, want %q", key, status[key], want)
		}
	}
	for _, ns := range []string{"net", "ipc", "uts", "mnt"} {
		theirs, err1 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", vm.PID(), ns))
		ours, err2 := os.Readlink("/proc/self/ns/" + ns)
		if err := errors.Join(err1, err2); err != nil || theirs == ours {
			t.Errorf("QEMU is in our own %s namespace (%v)", ns, err)
		}
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", vm.PID()))
	if err != nil || strings.Contains(string(environ), "HOME=") {
		t.Errorf("QEMU's environment is %q, %v", environ, err)
	}
	checkRoot(t, vm.PID())
}

const parentEnv = "HYPER_TEST_PARENT"

// beParent starts the machine that its environment describes, says its pid, and
// waits to be killed.
func beParent() {
	d, err := New(Config{Accel: AccelTCG}, log.L)
	if err != nil {
		fmt.Println(err)
		return
	}
	kernel, image, _ := strings.Cut(os.Getenv(parentEnv), ":")
	vm, err := d.Start(context.Background(), virtcontainers.VMSpec{ID: "orphan", VCPUs: 1, MemoryMiB: 128, Kernel: kernel, Image: image})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(vm.PID())
	<-vm.Done()
}

func TestDiesWithItsParent(t *testing.T) {
	newDriver(t, Config{}) // skips where it must
	spec := testSpec(t)
	parent := exec.Command("/proc/self/exe")
	parent.Env = append(os.Environ(), parentEnv+"="+spec.Kernel+":"+spec.Image)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		_ = parent.Process.Kill()
		t.Fatalf("the parent said %q", line)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 5000); err != nil || n != 1 {
		t.Errorf("QEMU lives on: %d, %v", n, err)
	}
}
