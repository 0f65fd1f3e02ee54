package qemu

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hyperhq/hyper/virtcontainers"
)

// Fingerprint implements virtcontainers.Cloner.
//
// Files count by what the file system says of them: to read them would take longer
// than a clone's start.
func (d *Driver) Fingerprint(spec virtcontainers.VMSpec) (string, error) {
	var b strings.Builder
	for _, path := range []string{d.binary, d.firmware, spec.Kernel, spec.Image} {
		info, err := os.Stat(path)
		if err != nil {
			return "", fmt.Errorf("look at what a template is made of: %w", err)
		}
		fmt.Fprintf(&b, "%s %d %d", path, info.Size(), info.ModTime().UnixNano())
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			fmt.Fprintf(&b, " %d %d %d", st.Dev, st.Ino, st.Ctim.Nano())
		}
		b.WriteByte('\n')
	}
	if d.accel.kvm {
		// The host's kernel has a part in what a processor's state is.
		var host unix.Utsname
		if err := unix.Uname(&host); err != nil {
			return "", fmt.Errorf("look at what a template is made of: %w", err)
		}
		fmt.Fprintf(&b, "%s %s\n", unix.ByteSliceToString(host.Release[:]), unix.ByteSliceToString(host.Version[:]))
	}
	spec.ID = "template"
	// The clock's rate is measured anew each time, and differs a little.
	p := d.platform(saves)
	fmt.Fprintf(&b, "%q\n%s\n", arguments(spec, p, descriptors{}), d.host)
	return b.String(), nil
}

// hostProcessor is what tells this host's processor from another, of the text of
// /proc/cpuinfo: its first processor, but for what differs from one moment or
// processor to the next.
func hostProcessor(cpuinfo string) string {
	first, _, _ := strings.Cut(cpuinfo, "\n\n")
	var b strings.Builder
	for line := range strings.Lines(first) {
		key, _, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags", "vmx flags", "address sizes":
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	return b.String()
}
