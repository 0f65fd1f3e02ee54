package agent

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParseSysctls(t *testing.T) {
	got, err := parseSysctls(map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "0",
		"net/ipv4/conf/eno2.100/rp_filter":    "1",
		"net.ipv6.conf.eno2/100.accept_ra":    "0",
		"net.ipv4.neigh.lo.gc_stale_time":     "60",
		"kernel.shm_rmid_forced":              "1",
		"fs.mqueue.msg_max":                   "20",
		"kernel.domainname":                   "example",
	})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, s := range got {
		paths = append(paths, s.path+" "+s.link)
	}
	want := `fs/mqueue/msg_max 
kernel/domainname 
kernel/shm_rmid_forced 
net/ipv4/ip_unprivileged_port_start 
net/ipv4/neigh/lo/gc_stale_time 
net/ipv6/conf/eno2.100/accept_ra eno2.100
net/ipv4/conf/eno2.100/rp_filter eno2.100`
	if strings.Join(paths, "\n") != want {
		t.Errorf("got\n%s", strings.Join(paths, "\n"))
	}
}

func TestParseSysctlsRefuses(t *testing.T) {
	for _, name := range []string{
		"", "net", "net.", ".net", "net..x", "net/../kernel/panic", "net/./x", "net.ipv4./.x", "net.//.x", "net/ipv4//x",
		"kernel.panic", "kernel.hostname", "kernel/hostname", "vm.swappiness", "fs.mqueue", "user.max_user_namespaces",
		"netx.a", "net.ipv4.a b", "net.ä", "net.a\x00", "../net/x", "/net/x", "net." + strings.Repeat("x", maxSysctlName),
	} {
		if _, err := parseSysctls(map[string]string{name: "1"}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%.40q: %v", name, err)
		}
	}
	for _, value := range []string{"1\x00", strings.Repeat("1", maxSysctlValue+1)} {
		if _, err := parseSysctls(map[string]string{"net.core.somaxconn": value}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("value %.40q: %v", value, err)
		}
	}
}

func FuzzParseSysctl(f *testing.F) {
	for _, name := range []string{"net.ipv4.ip_forward", "net/ipv4/conf/a.b/rp_filter", "kernel.sem", "net.a/../b", "fs.mqueue.x"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		s, err := parseSysctl(name, "1")
		if err != nil {
			return
		}
		for part := range strings.SplitSeq(s.path, "/") {
			if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "\x00\n ") {
				t.Fatalf("%q became %q", name, s.path)
			}
		}
		if !strings.HasPrefix(s.path, "net/") && !strings.HasPrefix(s.path, "kernel/") && !strings.HasPrefix(s.path, "fs/mqueue/") {
			t.Fatalf("%q became %q", name, s.path)
		}
	})
}
