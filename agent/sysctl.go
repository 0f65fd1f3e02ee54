package agent

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	maxSysctls     = 1024
	maxSysctlName  = 256
	maxSysctlValue = 4096
	sysctlRoot     = "/proc/sys"
)

// sysctl is one kernel parameter of the guest's own network, IPC or UTS
// namespace, which the containers of a pod share.
type sysctl struct {
	name, value string
	path        string // below /proc/sys
	link        string // the interface whose parameter it is, or empty
}

// parseSysctls validates parameters and sorts them by name.
func parseSysctls(given map[string]string) ([]sysctl, error) {
	if len(given) > maxSysctls {
		return nil, fmt.Errorf("%d sysctls, at most %d: %w", len(given), maxSysctls, errdefs.ErrInvalidArgument)
	}
	var list []sysctl
	for _, name := range slices.Sorted(maps.Keys(given)) {
		s, err := parseSysctl(name, given[name])
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

func parseSysctl(name, value string) (sysctl, error) {
	parts, err := splitSysctl(name)
	if err != nil {
		return sysctl{}, err
	}
	if len(value) > maxSysctlValue || strings.ContainsRune(value, 0) {
		return sysctl{}, fmt.Errorf("the value of sysctl %s has more than %d bytes, or a zero byte: %w", name, maxSysctlValue, errdefs.ErrInvalidArgument)
	}
	switch {
	case parts[0] == "net":
	case isIPCSysctl(strings.Join(parts, ".")):
	case slices.Equal(parts, []string{"kernel", "domainname"}):
	case slices.Equal(parts, []string{"kernel", "hostname"}):
		return sysctl{}, fmt.Errorf("sysctl %s: the hostname has a field of its own: %w", name, errdefs.ErrInvalidArgument)
	default:
		return sysctl{}, fmt.Errorf("sysctl %s is of no namespace that a pod has: %w", name, errdefs.ErrInvalidArgument)
	}
	return sysctl{name: name, value: value, path: filepath.Join(parts...), link: sysctlLink(parts)}, nil
}

// isIPCSysctl tells the parameters of an IPC namespace by their names with dots.
func isIPCSysctl(name string) bool {
	switch name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
		"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return true
	}
	return strings.HasPrefix(name, "fs.mqueue.")
}

// splitSysctl divides a name into the elements of its path. As with sysctl(8)
// the first separator says which one it is, a dot or a slash, and the other
// stands for a dot: an interface's name can have one.
func splitSysctl(name string) ([]string, error) {
	bad := fmt.Errorf("sysctl name %.300q: want elements of letters, digits and any of _- between dots: %w", name, errdefs.ErrInvalidArgument)
	if len(name) > maxSysctlName {
		return nil, bad
	}
	path := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		path = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	parts := strings.Split(path, "/")
	if len(parts) < 2 {
		return nil, bad
	}
	for _, part := range parts {
		if !isSysctlElement(part) {
			return nil, bad
		}
	}
	return parts, nil
}

// isSysctlElement says whether part names a file or directory below /proc/sys,
// and no other.
func isSysctlElement(part string) bool {
	if part == "" || strings.HasPrefix(part, ".") || strings.Contains(part, "..") {
		return false
	}
	for _, c := range []byte(part) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '_', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}

// sysctlLink returns the interface whose parameter this is: of
// net/<family>/conf/<interface>/…, and the same with neigh.
func sysctlLink(parts []string) string {
	if len(parts) < 5 || parts[2] != "conf" && parts[2] != "neigh" {
		return ""
	}
	switch parts[3] {
	case "all", "default", "lo":
		return ""
	}
	return parts[3]
}

// write sets the parameter, unless it is so already.
func (s sysctl) write() error {
	file := filepath.Join(sysctlRoot, s.path)
	// Not all can be read.
	if now, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(now)) == strings.TrimSpace(s.value) {
		return nil
	}
	// Never made: a name that the kernel does not have is an error.
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(s.value)
		f.Close()
	}
	if err != nil {
		return fmt.Errorf("setting sysctl %s to %.100q: %w", s.name, s.value, err)
	}
	return nil
}

// applySysctls sets the parameters that are of no single interface, and returns
// the others.
func applySysctls(list []sysctl) (ofLinks []sysctl, err error) {
	for _, s := range list {
		if s.link != "" {
			ofLinks = append(ofLinks, s)
			continue
		}
		if err := s.write(); err != nil {
			return nil, err
		}
	}
	return ofLinks, nil
}
