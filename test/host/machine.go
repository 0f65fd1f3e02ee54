package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/test/host/wire"
)

// defaultProcessor is all that QEMU can emulate, which is AMD's virtualization too.
// Page tables of five levels would only be slower.
const defaultProcessor = "max,la57=off"

// bootPatience is how long the machine may take until it can run commands.
const bootPatience = 5 * time.Minute

// machineSpec is how a machine is to be.
type machineSpec struct {
	memoryMiB, processors int
	processor, console    string
}

// machine is a host that is up.
type machine struct {
	cmd     *exec.Cmd
	done    chan error
	console string
	port    net.Conn
	orders  *json.Encoder
	words   *json.Decoder
}

// boot starts QEMU and returns when the host is up. The machine ends with the context.
func boot(ctx context.Context, spec machineSpec, p parts) (*machine, error) {
	console := spec.console
	if console == "" {
		console = filepath.Join(filepath.Dir(p.disk), "console")
	}
	port, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("make a serial port: %w", err)
	}
	defer theirs.Close()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", arguments(spec, p, console)...)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL, Cloneflags: unix.CLONE_NEWNET}
	m := &machine{
		cmd: cmd, done: make(chan error, 1), console: console,
		port: port, orders: json.NewEncoder(port), words: json.NewDecoder(port),
	}
	started := make(chan error)
	go func() {
		// The signal comes when the thread that started QEMU ends.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			m.done <- cmd.Wait()
			port.Close()
		}
	}()
	if err := <-started; err != nil {
		port.Close()
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	if err := m.awaitBoot(); err != nil {
		m.end()
		return nil, m.explain(fmt.Errorf("wait for the host to boot: %w", err))
	}
	return m, nil
}

func (m *machine) awaitBoot() error {
	if err := m.port.SetReadDeadline(time.Now().Add(bootPatience)); err != nil {
		return err
	}
	var word wire.Word
	if err := m.words.Decode(&word); err != nil {
		return err
	}
	return m.port.SetReadDeadline(time.Time{})
}

// arguments are QEMU's. The serial port is its third descriptor.
func arguments(spec machineSpec, p parts, console string) []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", spec.processor,
		"-smp", strconv.Itoa(spec.processors), "-m", strconv.Itoa(spec.memoryMiB),
		"-kernel", filepath.Join(p.kernelDir, "vmlinuz"), "-initrd", p.image,
		"-append", "console=ttyS0 panic=-1 mitigations=off nokaslr cryptomgr.notests nowatchdog init_on_alloc=0 tsc=reliable",
		"-serial", "file:" + console,
		"-object", "rng-random,id=entropy,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=entropy",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=port,fd=3", "-device", "virtserialport,chardev=port,name=" + wire.Port,
		"-drive", "if=none,id=disk,format=raw,cache=unsafe,discard=unmap,file=" + p.disk, "-device", "virtio-blk-pci,drive=disk",
	}
	for tag, dir := range map[string]string{wire.RootTag: "/", wire.CheckoutTag: p.checkout} {
		args = append(args, "-fsdev", "local,id="+tag+",security_model=none,readonly=on,multidevs=remap,path="+dir,
			"-device", "virtio-9p-pci,fsdev="+tag+",mount_tag="+tag)
	}
	return args
}

// run runs a script in the host and returns its exit status.
func (m *machine) run(script string, out io.Writer) (status int, err error) {
	if err := m.orders.Encode(wire.Order{Script: script}); err != nil {
		return 0, fmt.Errorf("order a command: %w", err)
	}
	for {
		var word wire.Word
		if err := m.words.Decode(&word); err != nil {
			return 0, fmt.Errorf("hear of a command: %w", err)
		}
		if _, err := out.Write(word.Output); err != nil {
			return 0, err
		}
		if word.Ready {
			return word.Status, nil
		}
	}
}

// end ends the machine.
func (m *machine) end() {
	_ = m.cmd.Process.Kill() // or it has ended
	m.done <- <-m.done
}

// explain adds what the kernel has said last.
func (m *machine) explain(err error) error {
	said, readErr := os.ReadFile(m.console)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	lines := strings.Split(strings.TrimRight(string(said), "\r\n"), "\n")
	return fmt.Errorf("%w; the host's console:\n%s", err, strings.Join(lines[max(0, len(lines)-40):], "\n"))
}

// socketPair makes a connection with an end for another process.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "port"), os.NewFile(uintptr(fds[1]), "port")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}
