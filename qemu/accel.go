package qemu

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

const kvmDevice = "/dev/kvm"

// acceleration is how the guest's code is run.
type acceleration struct {
	// kvm says hardware virtualization; else it is emulated.
	kvm bool
	// groups are what the QEMU process must belong to for it.
	groups []uint32
	// warning is for the log, once; empty if there is nothing to say.
	warning string
}

// kvmAccess says how the acceleration device can be reached.
type kvmAccess struct {
	// err is why this process cannot open it read-write, or nil.
	err error
	// mode and gid tell who else can.
	mode os.FileMode
	gid  uint32
}

// hostKVM looks at this host's acceleration device.
func hostKVM() kvmAccess {
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	if err != nil {
		return kvmAccess{err: err}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return kvmAccess{err: err}
	}
	access := kvmAccess{mode: info.Mode().Perm()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		access.gid = st.Gid
	}
	return access
}

// chooseAccel decides between KVM and TCG.
//
// That the device opens proves nothing: a paravirtual KVM inside of a virtual
// machine opens, makes machines, and boots none. Such a host's processors show no
// virtualization flag, so both are asked for, unless the operator insists.
func chooseAccel(want string, cpu map[string]bool, device kvmAccess) (acceleration, error) {
	if want == AccelTCG {
		return acceleration{}, nil
	}
	groups, problem := kvmGroups(device)
	if device.err == nil && want == AccelAuto && !cpu["vmx"] && !cpu["svm"] {
		problem = "the processor flags in /proc/cpuinfo have neither vmx nor svm"
	}
	switch {
	case problem == "":
		return acceleration{kvm: true, groups: groups}, nil
	case want == AccelKVM:
		return acceleration{}, fmt.Errorf("KVM is asked for, but %s: mend that, or choose acceleration %q or %q: %w",
			problem, AccelAuto, AccelTCG, errdefs.ErrFailedPrecondition)
	default:
		return acceleration{warning: "virtual machines are emulated in software (TCG), which is several times slower: " + problem}, nil
	}
}

// kvmGroups returns the groups by which an unprivileged user can open the device,
// or what is in the way.
func kvmGroups(device kvmAccess) (groups []uint32, problem string) {
	switch {
	case device.err != nil:
		return nil, fmt.Sprintf("%s cannot be opened (%v)", kvmDevice, device.err)
	case device.mode&0o006 == 0o006:
		return nil, ""
	case device.mode&0o060 == 0o060 && device.gid != 0:
		return []uint32{device.gid}, ""
	default:
		return nil, fmt.Sprintf("%s (group %d, mode %#o) cannot be opened by an unprivileged QEMU: "+
			"give it to a group of its own (chgrp kvm %[1]s; chmod 660 %[1]s)", kvmDevice, device.gid, device.mode)
	}
}

// cpuFlags returns the features of this host's first processor, from the text of
// /proc/cpuinfo.
func cpuFlags(cpuinfo io.Reader) map[string]bool {
	flags := map[string]bool{}
	lines := bufio.NewScanner(cpuinfo)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(key) != "flags" {
			continue
		}
		for flag := range strings.FieldsSeq(value) {
			flags[flag] = true
		}
		break
	}
	return flags
}
