package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/qemu/process"
	"github.com/hyperhq/hyper/virtcontainers"
)

// Driver runs virtual machines on this host.
type Driver struct {
	binary    string
	program   string        // the binary without links on its path
	root      *process.Root // what QEMU sees of the host's files
	firmware  string
	machine   string
	accel     acceleration
	uid       uint32
	host      string // its processor: see hostProcessor
	clock     tscSample
	steadyTSC bool
	// translatedMiB is the configuration's.
	translatedMiB uint64
}

var _ virtcontainers.Hypervisor = (*Driver)(nil)

// New looks for QEMU and what it needs on this host, and logs one warning if it
// must do without hardware virtualization.
//
// Errors name the file and what to do: ErrNotFound for a missing QEMU or
// firmware, ErrInvalidArgument for a configuration that has no meaning,
// ErrFailedPrecondition for what cannot be used.
func New(cfg Config, logger *log.Entry) (*Driver, error) {
	clock := sampleTSC()
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	binary, err := findBinary(cfg.Path)
	if err != nil {
		return nil, err
	}
	program, err := program(binary)
	if err != nil {
		return nil, err
	}
	firmware, err := findFirmware(cfg.Firmware, binary)
	if err != nil {
		return nil, err
	}
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, fmt.Errorf("look for virtualization: %w", err)
	}
	cpu := cpuFlags(bytes.NewReader(cpuinfo))
	accel, err := chooseAccel(cfg.Accel, cpu, hostKVM())
	if err != nil {
		return nil, err
	}
	if accel.warning != "" {
		logger.Warn(accel.warning)
	}
	return &Driver{
		binary:        binary,
		program:       program,
		root:          root(program, cfg.Files, accel.kvm),
		firmware:      firmware,
		machine:       cfg.Machine,
		accel:         accel,
		uid:           cfg.UIDBase + uint32(os.Getpid()),
		translatedMiB: cfg.TranslatedMiB,
		host:          hostProcessor(string(cpuinfo)),
		clock:         clock,
		// A counter that keeps its pace whatever the processor does.
		steadyTSC: cpu["constant_tsc"] && cpu["nonstop_tsc"],
	}, nil
}

// Start implements virtcontainers.Hypervisor.
//
// Errors: ErrInvalidArgument for a spec, kernel, image or namespace that cannot work,
// ErrNotFound for a missing file or network namespace, ErrResourceExhausted for more memory than the
// host has, and those of process.Start. That QEMU refuses to run, or the guest to
// boot, is told by the machine's Done and Err.
func (d *Driver) Start(ctx context.Context, spec virtcontainers.VMSpec) (virtcontainers.VM, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start VM %q: %w", spec.ID, err)
	}
	if err := d.check(spec); err != nil {
		return nil, err
	}
	return (&launch{driver: d, spec: spec}).start()
}

// check refuses a machine that cannot be on this host.
func (d *Driver) check(spec virtcontainers.VMSpec) error {
	if err := checkSpec(spec); err != nil {
		return err
	}
	if err := checkThisHostsMemory(spec); err != nil {
		return err
	}
	return d.checkMachine(spec)
}

// checkMachine refuses an emulated microvm: with few timers to choose from, which
// an emulator on a host delivers late, about one boot in ten hangs.
func (d *Driver) checkMachine(spec virtcontainers.VMSpec) error {
	if d.machine == MachineMicroVM && !d.accel.kvm {
		return fmt.Errorf("VM %q: an emulated microvm is not reliable, it hangs now and then: use machine %q, or KVM: %w",
			spec.ID, MachineQ35, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// platform is what the driver's machines of a role run on, as far as it is the same for
// all.
func (d *Driver) platform(r role) platform {
	return platform{machine: d.machine, kvm: d.accel.kvm, role: r, translatedMiB: d.translatedMiB}
}

// startSlice is how long an emulating QEMU may compute at a time until the first container
// runs. When many start at once each would else have the processor for 3 ms and then for
// long not, find the caches full of what others do, and its guest another interrupt of its
// timer: a start took a third more of the processor.
func (p platform) startSlice() time.Duration {
	if p.kvm {
		return 0
	}
	return 100 * time.Millisecond
}

// launch gathers what one machine takes.
type launch struct {
	driver  *Driver
	spec    virtcontainers.VMSpec
	role    role
	memory  *os.File // of a template or a clone; the caller's
	private bool     // of a clone: see virtcontainers.Saved

	files  []*os.File // for QEMU to inherit, in their order
	opened []*os.File // to be closed afterwards; not the caller's
	netns  *os.File   // nil for a new one

	monitor, console net.Conn
	channel          channel
	vsock            *vsockAddress
}

// start runs QEMU, or leaves nothing behind.
func (l *launch) start() (*machine, error) {
	// QEMU has its own copies of these, or there is no QEMU.
	defer l.closeFiles()
	m, err := l.run()
	if err != nil {
		l.closeOwnEnds()
		return nil, fmt.Errorf("start VM %q: %w", l.spec.ID, err)
	}
	return m, nil
}

func (l *launch) run() (*machine, error) {
	fd, err := l.gather()
	if err != nil {
		return nil, err
	}
	d := l.driver
	p := d.platform(l.role)
	p.private, p.vsock = l.private, l.vsock
	if d.steadyTSC {
		p.tscKHz = d.clock.tscKHz()
	}
	if l.role == saves && !p.kvm && p.tscKHz == 0 {
		// The guest would find its clock's rate by itself, in the moments that this
		// process leaves it: clones would have clocks that are wrong by any factor.
		return nil, fmt.Errorf("the rate of the time stamp counter is not known: %w", errdefs.ErrFailedPrecondition)
	}
	namespaces := uintptr(unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	if l.netns == nil {
		namespaces |= unix.CLONE_NEWNET
	}
	proc, err := process.Start(process.Spec{
		Path:       d.program,
		Args:       arguments(l.spec, p, fd),
		Env:        []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"},
		Files:      l.files,
		User:       &process.User{UID: d.uid, GID: d.uid, Groups: d.accel.groups},
		Namespaces: namespaces,
		NetNS:      l.netns,
		Root:       d.root,
		SmallPages: !p.kvm,
		Slice:      p.startSlice(),
	})
	if err != nil {
		return nil, err
	}
	m := newMachine(l.spec.ID, d.binary, proc, l.monitor, l.console, l.channel)
	m.hotplug = p.hotplug()
	m.memory = newMemory(l.spec, p)
	m.booted = l.role != resumes
	if !m.booted {
		_ = m.plugs.reserve(l.spec.Places) // that they can be has been checked
	}
	return m, nil
}

// gather opens all that QEMU is handed.
func (l *launch) gather() (fd descriptors, err error) {
	if err := l.openBootFiles(&fd); err != nil {
		return fd, err
	}
	if l.memory != nil {
		fd.memory = l.inherit(l.memory)
	}
	if l.monitor, err = l.socket("monitor", &fd.monitor); err != nil {
		return fd, err
	}
	if l.console, err = l.socket("console", &fd.console); err != nil {
		return fd, err
	}
	if l.spec.Share != nil {
		fd.share = l.inherit(l.spec.Share.Socket)
	}
	if l.spec.NetNS != "" {
		if l.netns, err = openNetNS(l.spec.NetNS); err != nil {
			return fd, err
		}
		l.opened = append(l.opened, l.netns)
	}
	fd.channel, err = l.openChannel()
	return fd, err
}

func (l *launch) openBootFiles(fd *descriptors) error {
	files := []struct {
		fd         *int
		path, what string
		check      func(*os.File) error
	}{
		{&fd.firmware, l.driver.firmware, "QEMU firmware", nil},
		{&fd.kernel, l.spec.Kernel, "guest kernel", checkKernel},
		{&fd.image, l.spec.Image, "guest image", checkImage},
	}
	if l.role == resumes {
		files = files[:1]
		kernel, err := noKernel()
		if err != nil {
			return err
		}
		fd.kernel = l.own(kernel)
	}
	for _, file := range files {
		f, err := openBootFile(file.path, file.what, file.check)
		if err != nil {
			return err
		}
		*file.fd = l.own(f)
	}
	return nil
}

// openChannel takes vsock where this host has it, else virtio-serial. For templates
// and clones that is always virtio-serial: a vsock address is the host's, and
// would be the same in all clones.
func (l *launch) openChannel() (int, error) {
	if l.role != boots {
		return l.openSerial()
	}
	device, cid, err := openVhostVsock()
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return l.openSerial()
	}
	if err != nil {
		return 0, err
	}
	fd := l.own(device)
	c, err := listenVsock(cid)
	if err != nil {
		return 0, err
	}
	l.channel, l.vsock = c, &c.address
	return fd, nil
}

func (l *launch) openSerial() (int, error) {
	var fd int
	conn, err := l.socket("channel", &fd)
	if err != nil {
		return 0, err
	}
	l.channel = &serialChannel{conn: conn}
	return fd, nil
}

// socket makes a connection whose other end QEMU inherits.
func (l *launch) socket(name string, fd *int) (net.Conn, error) {
	conn, theirs, err := socketPair(name)
	if err != nil {
		return nil, err
	}
	*fd = l.own(theirs)
	return conn, nil
}

func (l *launch) own(f *os.File) int {
	l.opened = append(l.opened, f)
	return l.inherit(f)
}

func (l *launch) inherit(f *os.File) int {
	l.files = append(l.files, f)
	return process.FD(len(l.files) - 1)
}

func (l *launch) closeFiles() {
	for _, f := range l.opened {
		f.Close()
	}
}

func (l *launch) closeOwnEnds() {
	for _, conn := range []net.Conn{l.monitor, l.console} {
		if conn != nil {
			conn.Close()
		}
	}
	if l.channel != nil {
		l.channel.close()
	}
}
