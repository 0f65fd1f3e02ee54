package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hyperhq/hyper/virtcontainers"
)

// shareChardev is the name of the connection to the share's daemon.
const shareChardev = "share"

// agentPort is the name of the virtio-serial port that leads to the agent.
const agentPort = "hyper.agent"

// role is what a machine is started for.
type role int

const (
	// boots is a machine that boots and is used.
	boots role = iota
	// saves is one that boots and is saved: a template.
	saves
	// resumes is one that goes on where a template was saved: a clone.
	resumes
)

// platform is what a machine runs on, as far as its arguments depend on it.
type platform struct {
	machine string
	kvm     bool
	role    role
	private bool // of a clone: see virtcontainers.Saved
	// translatedMiB bounds what is kept of the guest's code as it was translated.
	translatedMiB uint64
	// tscKHz is the frequency of the host's time stamp counter, 0 if that is not
	// known or not steady.
	tscKHz uint64
	// vsock is where the agent calls, or nil for a virtio-serial channel.
	vsock *vsockAddress
}

// descriptors are those that QEMU inherits; 0 means that there is none.
type descriptors struct {
	kernel, image, firmware int
	monitor, console        int
	channel                 int // the virtio-serial port's socket, or vhost-vsock
	share                   int
	memory                  int // the file of a template's memory, or of a clone's
}

// arguments returns QEMU's command line for a machine, without the program's name.
// Whatever a guest can see is the same for a template and its clones.
func arguments(spec virtcontainers.VMSpec, p platform, fd descriptors) []string {
	backend := memoryBackend(spec, p, fd)
	args := []string{
		"-name", escape(spec.ID),
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-accel", accelArgument(p),
		"-machine", machineArgument(p, backend != ""),
		"-cpu", cpuModel(p),
		"-smp", fmt.Sprintf("cpus=%d,sockets=1,cores=%[1]d,threads=1", processors(spec)),
		"-m", memoryArgument(spec, p),
	}
	if p.machine == MachineMicroVM {
		// Or its devices speak virtio 0.9, which vhost-user daemons do not.
		args = append(args, "-global", "virtio-mmio.force-legacy=false")
	}
	if backend != "" {
		args = append(args, "-object", backend)
	}
	args = append(args, bootArguments(spec, p, fd)...)
	args = append(args,
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", fd.monitor),
		"-mon", "chardev=monitor,mode=control",
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", fd.console),
		"-serial", "chardev:console",
	)
	args = append(args, hotplugArguments(p)...)
	args = append(args, channelArguments(p, fd.channel)...)
	args = append(args, shareArguments(spec, p, fd.share)...)
	if p.role != boots {
		return append(args, placeArguments(spec.Places)...)
	}
	// Last, so that a guest finds them after what it needs to answer.
	return append(args, memoryDevices(spec, p)...)
}

// bootArguments are what the machine boots. A clone boots nothing: it has a kernel
// only because the machine has a small ROM with one, which is part of what is saved.
func bootArguments(spec virtcontainers.VMSpec, p platform, fd descriptors) []string {
	args := []string{"-bios", inherited(fd.firmware), "-kernel", inherited(fd.kernel)}
	if p.role == resumes {
		return append(args, "-incoming", "defer", "-S")
	}
	return append(args, "-initrd", inherited(fd.image), "-append", commandLine(spec, p))
}

// memoryBackend is the object that holds the guest's memory, or nothing where QEMU's
// own choice will do.
func memoryBackend(spec virtcontainers.VMSpec, p platform, fd descriptors) string {
	size := fmt.Sprintf("id=mem,size=%dM", spec.MemoryMiB)
	switch {
	case p.role == boots && spec.Share == nil:
		return ""
	case p.role == boots:
		// The daemon beside QEMU maps the guest's memory too.
		return "memory-backend-memfd," + size + ",share=on"
	case p.role == resumes && !p.private:
		return "memory-backend-file," + size + ",mem-path=" + inherited(fd.memory) + ",share=off"
	default:
		return "memory-backend-file," + size + ",mem-path=" + inherited(fd.memory) + ",share=on"
	}
}

// shareArguments are the connection to the share's daemon, and its device. A clone is
// given that when it has been restored, because QEMU cannot save it.
func shareArguments(spec virtcontainers.VMSpec, p platform, fd int) []string {
	if spec.Share == nil {
		return nil
	}
	args := []string{"-chardev", fmt.Sprintf("socket,id=%s,fd=%d", shareChardev, fd)}
	if p.role == resumes {
		return args
	}
	return append(args, "-device", p.device("vhost-user-fs")+",chardev="+shareChardev+",tag="+escape(spec.Share.Tag))
}

// hotplug says that devices can be plugged into the running machine.
func (p platform) hotplug() bool { return p.machine == MachineQ35 }

// hotplugArguments make the bus for what is plugged in later, and the source of
// entropy. That sits on the bus, at the place that is no slot, because a guest gives
// a bus that is empty when it boots no addresses for devices to come. The least that
// a bridge can have, a MiB of either kind, is enough for all slots.
//
// The bridge has no controller of its own (shpc): guests use ACPI.
func hotplugArguments(p platform) []string {
	if !p.hotplug() {
		return []string{"-device", p.device("virtio-rng")}
	}
	return []string{
		"-device", "pci-bridge,id=" + hotplugBus + ",chassis_nr=1,shpc=off",
		"-device", p.device("virtio-rng") + ",bus=" + hotplugBus + ",addr=0,disable-legacy=on",
	}
}

// device returns the name of a virtio device on the machine's bus.
func (p platform) device(name string) string {
	if p.machine == MachineMicroVM {
		return name + "-device"
	}
	return name + "-pci"
}

// machineArgument leaves out of the machine what a guest of ours never looks at.
func machineArgument(p platform, backend bool) string {
	options := []string{p.machine}
	switch {
	case p.machine == MachineQ35:
		options = append(options, "usb=off,vmport=off,smbus=off,sata=off,hpet=off,graphics=off,i8042=off")
	case p.kvm:
		// Without KVM's own clock the guest needs these: with them off an emulated
		// microvm hangs, or waits seconds for a clock that is not there.
		options = append(options, "pit=off,pic=off,rtc=off,x-option-roms=off")
	}
	// Neither in a core file, nor merged with the pages of other machines, which
	// would tell one by its timing what the other holds.
	options = append(options, "dump-guest-core=off,mem-merge=off")
	if backend {
		options = append(options, "memory-backend=mem")
	}
	return strings.Join(options, ",")
}

// accelArgument runs emulated processors on one thread, by turns. On a thread each
// they are not faster for what a guest does while it boots, and one in twenty
// guests with two of them died of "Oops: int3" (QEMU 7.2, Linux 6.12): a processor
// can still execute the breakpoint by which the kernel patched its code elsewhere.
//
// What it has translated is kept up to so many MiB, and then all made anew. Without a
// bound a pod that lives for long takes up to 1 GiB more of the host than its limit says.
func accelArgument(p platform) string {
	if p.kvm {
		return "kvm"
	}
	return fmt.Sprintf("tcg,thread=single,tb-size=%d", p.translatedMiB)
}

// cpuModel is all that the accelerator has, but for an emulated guest's ERMS. By
// that flag kernel and libraries choose "rep movsb" and "rep stosb" to copy and to
// clear, which take a step of emulation for each byte: without it, an exec took
// two thirds of the time.
func cpuModel(p platform) string {
	if p.kvm {
		return "host"
	}
	return "max,-erms"
}

func channelArguments(p platform, fd int) []string {
	if p.vsock != nil {
		return []string{"-device", fmt.Sprintf("%s,guest-cid=%d,vhostfd=%d", p.device("vhost-vsock"), p.vsock.cid, fd)}
	}
	// The first port is a console's by tradition; the guest sets up two queues for
	// each port that could be, which takes time.
	return []string{
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", fd),
		"-device", p.device("virtio-serial") + ",max_ports=2",
		"-device", "virtserialport,chardev=agent,name=" + agentPort,
	}
}

// commandLine returns the guest kernel's command line.
func commandLine(spec virtcontainers.VMSpec, p platform) string {
	// panic and reboot: a kernel that panics resets the machine at once, by a way
	// that every machine has, and QEMU ends on a reset.
	args := []string{"console=ttyS0", "quiet", "panic=-1", "reboot=t", "cryptomgr.notests"}
	if !p.kvm {
		args = append(args, emulatedGuest(p)...)
		if spec.Share != nil || spec.Shared {
			// The share's daemon writes into the guest's memory behind the emulator's
			// back, which would go on to execute what it has translated of the code
			// that was in these pages before: programs died of SIGTRAP and SIGILL, or
			// hung. Pages that the guest's processor clears first are translated anew.
			args = append(args, "init_on_alloc=1")
		}
	}
	if p.machine == MachineQ35 {
		// Or the kernel looks for devices at each place of 256 buses, beside those that it
		// finds by its bridges: it reads PCI's configuration 8,700 times and not 560, each
		// of which is an exit to QEMU.
		args = append(args, "pci=lastbus=0")
	}
	args = append(args, processorArguments(spec, p)...)
	if p.growthMiB(spec) > 0 {
		args = append(args, growingGuest()...)
	}
	if p.vsock != nil {
		args = append(args, fmt.Sprintf("hyper.channel=vsock:%d", p.vsock.port))
	} else {
		args = append(args, "hyper.channel=serial")
	}
	return strings.Join(append(args, spec.KernelArgs...), " ")
}

// emulatedGuest are the kernel arguments that spare an emulated guest what is slow
// or goes wrong there.
//
// QEMU's timers are late whenever the host is busy: so the guest must not try
// whether its timer interrupt works, which costs 20 to 100 ms and may fail, nor
// judge the time stamp counter, which is the host's own, by other clocks. And code
// that changes is translated anew: to take the lock prefixes out of the kernel of a
// guest with one processor costs more than 100 ms, and they cost it nothing.
func emulatedGuest(p platform) []string {
	args := []string{"noreplace-smp"}
	if p.machine == MachineQ35 {
		// On a microvm the interrupt may have to go another way than it says at
		// first, which only the trial finds: without it one boot in four hung.
		args = append(args, "no_timer_check")
	}
	if p.tscKHz != 0 {
		args = append(args, "tsc=reliable", "tsc_early_khz="+strconv.FormatUint(p.tscKHz, 10))
	}
	return args
}

// inherited is the path by which QEMU opens a descriptor that it inherited.
func inherited(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// escape makes a value safe within QEMU's comma separated options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
