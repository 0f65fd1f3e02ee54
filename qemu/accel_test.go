package qemu

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestChooseAccel(t *testing.T) {
	const (
		intel = "processor\t: 0\nflags\t\t: fpu vmx sse\n\nprocessor\t: 1\n"
		amd   = "vendor_id: AuthenticAMD\nflags : fpu svm\n"
		none  = "flags\t\t: fpu vme hypervisor\nvmx flags : no\n"
	)
	open, group := kvmAccess{mode: 0o666}, kvmAccess{mode: 0o660, gid: 104}
	for _, tc := range []struct {
		name, want, cpuinfo string
		device              kvmAccess
		kvm                 bool
		groups              []uint32
		says                string // in the warning, or in the error
		fails               bool
	}{
		{"auto, Intel", AccelAuto, intel, open, true, nil, "", false},
		{"auto, AMD, by group", AccelAuto, amd, group, true, []uint32{104}, "", false},
		{"auto, paravirtual KVM", AccelAuto, none, open, false, nil, "neither vmx nor svm", false},
		{"auto, paravirtual KVM, closed", AccelAuto, none, kvmAccess{mode: 0o600}, false, nil, "neither vmx nor svm", false},
		{"auto, no cpuinfo", AccelAuto, "", open, false, nil, "neither vmx nor svm", false},
		{"auto, no device", AccelAuto, intel, kvmAccess{err: os.ErrNotExist}, false, nil, "cannot be opened (file does not exist)", false},
		{"auto, root only", AccelAuto, intel, kvmAccess{mode: 0o600}, false, nil, "chgrp kvm /dev/kvm", false},
		{"auto, root's group", AccelAuto, intel, kvmAccess{mode: 0o660}, false, nil, "chgrp kvm /dev/kvm", false},
		{"kvm, insisting", AccelKVM, none, group, true, []uint32{104}, "", false},
		{"kvm, no device", AccelKVM, intel, kvmAccess{err: os.ErrPermission}, false, nil, "permission denied", true},
		{"tcg, though KVM works", AccelTCG, intel, open, false, nil, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := chooseAccel(tc.want, cpuFlags(strings.NewReader(tc.cpuinfo)), tc.device)
			if tc.fails {
				if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("error %v, want one about %q", err, tc.says)
				}
				return
			}
			if err != nil || got.kvm != tc.kvm || !slices.Equal(got.groups, tc.groups) {
				t.Errorf("got %+v, %v", got, err)
			}
			if (got.warning == "") != (tc.says == "") || !strings.Contains(got.warning, tc.says) {
				t.Errorf("warning %q, want %q", got.warning, tc.says)
			}
		})
	}
}
