package qemu

import (
	"strings"
	"testing"

	"github.com/hyperhq/hyper/virtcontainers"
)

// fds are given distinct numbers, to be told apart in what is expected.
func testDescriptors() descriptors {
	return descriptors{kernel: 3, image: 4, firmware: 5, monitor: 6, console: 7, share: 8, channel: 9}
}

const commonHead = `-name pod -no-user-config -nodefaults -display none -no-reboot ` +
	`-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny `

// TestTemplateAndCloneArguments: a clone has all that its template has, but for what
// it boots, and a share of which the guest knows nothing yet.
func TestTemplateAndCloneArguments(t *testing.T) {
	fd := testDescriptors()
	fd.memory = 10
	spec := virtcontainers.VMSpec{ID: "pod", VCPUs: 2, MemoryMiB: 256, MaxMemoryMiB: 1024, Shared: true}
	args := func(spec virtcontainers.VMSpec, role role, private bool) string {
		return joined(arguments(spec, platform{machine: MachineQ35, role: role, private: private}, fd))
	}
	const boot = `-kernel /proc/self/fd/3 -initrd /proc/self/fd/4 -append [console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests ` +
		`noreplace-smp no_timer_check init_on_alloc=1 pci=lastbus=0 memhp_default_state=online swiotlb=noforce hyper.channel=serial]`
	const resume = `-kernel /proc/self/fd/3 -incoming defer -S`
	template := args(spec, saves, false)
	for _, what := range []string{boot, "-object memory-backend-file,id=mem,size=256M,mem-path=/proc/self/fd/10,share=on", "maxmem=1024M"} {
		if !strings.Contains(template, what) {
			t.Errorf("the template lacks %s:\n%s", what, template)
		}
	}
	for _, device := range []string{"balloon", "virtio-mem", "vhost"} {
		if strings.Contains(template, device) {
			t.Errorf("the template has a device %s:\n%s", device, template)
		}
	}
	resumed := strings.Replace(template, boot, resume, 1)
	if got := args(spec, resumes, true); got != resumed {
		t.Errorf("a clone with private memory\n%s\nwant\n%s", got, resumed)
	}
	if got, want := args(spec, resumes, false), strings.Replace(resumed, "share=on", "share=off", 1); got != want {
		t.Errorf("a clone with shared memory\n%s\nwant\n%s", got, want)
	}
	spec.Share = &virtcontainers.Share{Tag: "t"}
	if got, want := args(spec, resumes, true), resumed+" -chardev socket,id=share,fd=8"; got != want {
		t.Errorf("a clone with a share\n%s\nwant\n%s", got, want)
	}
}

func TestArguments(t *testing.T) {
	plain := virtcontainers.VMSpec{ID: "pod", VCPUs: 2, MemoryMiB: 256}
	shared := plain
	shared.ID = "a,b"
	shared.MaxMemoryMiB = 1023
	shared.KernelArgs = []string{"x=1", "y"}
	shared.Share = &virtcontainers.Share{Tag: "t,u"}
	vsock := &vsockAddress{cid: 77, port: 1234}

	for _, tc := range []struct {
		name     string
		spec     virtcontainers.VMSpec
		platform platform
		want     string
	}{
		{"q35, emulated", plain, platform{machine: MachineQ35, tscKHz: 2600000, translatedMiB: 128}, commonHead +
			`-accel tcg,thread=single,tb-size=128 -machine q35,usb=off,vmport=off,smbus=off,sata=off,hpet=off,graphics=off,i8042=off,dump-guest-core=off,mem-merge=off ` +
			`-cpu max,-erms -smp cpus=2,sockets=1,cores=2,threads=1 -m size=256M ` +
			`-bios /proc/self/fd/5 -kernel /proc/self/fd/3 -initrd /proc/self/fd/4 ` +
			`-append [console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests noreplace-smp no_timer_check tsc=reliable tsc_early_khz=2600000 pci=lastbus=0 lpj=10400000 hyper.channel=serial] ` +
			`-chardev socket,id=monitor,fd=6 -mon chardev=monitor,mode=control ` +
			`-chardev socket,id=console,fd=7 -serial chardev:console -device pci-bridge,id=hot,chassis_nr=1,shpc=off ` +
			`-device virtio-rng-pci,bus=hot,addr=0,disable-legacy=on ` +
			`-chardev socket,id=agent,fd=9 -device virtio-serial-pci,max_ports=2 ` +
			`-device virtserialport,chardev=agent,name=hyper.agent ` +
			`-device virtio-balloon-pci,id=balloon,free-page-reporting=on`},
		{"q35, KVM, vsock, share", shared, platform{machine: MachineQ35, kvm: true, tscKHz: 2600000, vsock: vsock},
			strings.Replace(commonHead, "pod", "a,,b", 1) +
				`-accel kvm -machine q35,usb=off,vmport=off,smbus=off,sata=off,hpet=off,graphics=off,i8042=off,dump-guest-core=off,mem-merge=off,memory-backend=mem ` +
				`-cpu host -smp cpus=2,sockets=1,cores=2,threads=1 -m size=256M,maxmem=1020M ` +
				`-object memory-backend-memfd,id=mem,size=256M,share=on ` +
				`-bios /proc/self/fd/5 -kernel /proc/self/fd/3 -initrd /proc/self/fd/4 ` +
				`-append [console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests pci=lastbus=0 memhp_default_state=online swiotlb=noforce hyper.channel=vsock:1234 x=1 y] ` +
				`-chardev socket,id=monitor,fd=6 -mon chardev=monitor,mode=control ` +
				`-chardev socket,id=console,fd=7 -serial chardev:console -device pci-bridge,id=hot,chassis_nr=1,shpc=off ` +
				`-device virtio-rng-pci,bus=hot,addr=0,disable-legacy=on ` +
				`-device vhost-vsock-pci,guest-cid=77,vhostfd=9 ` +
				`-chardev socket,id=share,fd=8 -device vhost-user-fs-pci,chardev=share,tag=t,,u ` +
				`-device virtio-balloon-pci,id=balloon,free-page-reporting=on ` +
				`-object memory-backend-memfd,id=more,size=764M,share=on ` +
				`-device virtio-mem-pci,id=growth,memdev=more,block-size=4M,requested-size=0`},
		{"microvm, emulated", plain, platform{machine: MachineMicroVM, translatedMiB: 24}, commonHead +
			`-accel tcg,thread=single,tb-size=24 -machine microvm,dump-guest-core=off,mem-merge=off ` +
			`-cpu max,-erms -smp cpus=2,sockets=1,cores=2,threads=1 -m size=256M ` +
			`-global virtio-mmio.force-legacy=false ` +
			`-bios /proc/self/fd/5 -kernel /proc/self/fd/3 -initrd /proc/self/fd/4 ` +
			`-append [console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests noreplace-smp hyper.channel=serial] ` +
			`-chardev socket,id=monitor,fd=6 -mon chardev=monitor,mode=control ` +
			`-chardev socket,id=console,fd=7 -serial chardev:console -device virtio-rng-device ` +
			`-chardev socket,id=agent,fd=9 -device virtio-serial-device,max_ports=2 ` +
			`-device virtserialport,chardev=agent,name=hyper.agent ` +
			`-device virtio-balloon-device,id=balloon,free-page-reporting=on`},
		{"microvm, KVM, vsock", plain, platform{machine: MachineMicroVM, kvm: true, vsock: vsock}, commonHead +
			`-accel kvm -machine microvm,pit=off,pic=off,rtc=off,x-option-roms=off,dump-guest-core=off,mem-merge=off ` +
			`-cpu host -smp cpus=2,sockets=1,cores=2,threads=1 -m size=256M ` +
			`-global virtio-mmio.force-legacy=false ` +
			`-bios /proc/self/fd/5 -kernel /proc/self/fd/3 -initrd /proc/self/fd/4 ` +
			`-append [console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests hyper.channel=vsock:1234] ` +
			`-chardev socket,id=monitor,fd=6 -mon chardev=monitor,mode=control ` +
			`-chardev socket,id=console,fd=7 -serial chardev:console -device virtio-rng-device ` +
			`-device vhost-vsock-device,guest-cid=77,vhostfd=9 ` +
			`-device virtio-balloon-device,id=balloon,free-page-reporting=on`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := joined(arguments(tc.spec, tc.platform, testDescriptors())); got != tc.want {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}

// joined puts the arguments with spaces into brackets.
func joined(args []string) string {
	var words []string
	for _, arg := range args {
		if strings.Contains(arg, " ") {
			arg = "[" + arg + "]"
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

// TestEmulatedShareClearsPages checks that a guest clears pages only where
// somebody beside an emulator writes into them.
func TestEmulatedShareClearsPages(t *testing.T) {
	share := &virtcontainers.Share{Tag: "t"}
	for _, tc := range []struct {
		share *virtcontainers.Share
		kvm   bool
		want  bool
	}{{nil, false, false}, {nil, true, false}, {share, true, false}, {share, false, true}} {
		line := commandLine(virtcontainers.VMSpec{Share: tc.share}, platform{machine: MachineQ35, kvm: tc.kvm})
		if got := strings.Contains(line, "init_on_alloc=1"); got != tc.want {
			t.Errorf("share %v, KVM %v: %s", tc.share != nil, tc.kvm, line)
		}
	}
}
