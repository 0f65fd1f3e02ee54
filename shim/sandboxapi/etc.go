package sandboxapi

import (
	"fmt"
	"os"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// dns is what a pod says of names.
type dns struct {
	servers, searches, options []string
}

// take takes one field of CRI's DNSConfig.
func (d *dns) take(n protowire.Number, f field) error {
	switch n {
	case dnsServers:
		d.servers = append(d.servers, string(f.bytes))
	case dnsSearches:
		d.searches = append(d.searches, string(f.bytes))
	case dnsOptions:
		d.options = append(d.options, string(f.bytes))
	}
	return nil
}

// resolvConf is the configuration as resolv.conf(5) has it.
func (d *dns) resolvConf() string {
	var b strings.Builder
	line := func(keyword string, words ...string) {
		if len(words) > 0 {
			fmt.Fprintf(&b, "%s %s\n", keyword, strings.Join(words, " "))
		}
	}
	line("search", d.searches...)
	for _, server := range d.servers {
		line("nameserver", server)
	}
	line("options", d.options...)
	return b.String()
}

// etc are the files that a pod's containers have in /etc. containerd leaves them to
// the shim where no pause container is the pod; for other sandboxes there are none.
func (p *pod) etc() (map[string]string, error) {
	if !p.isPod {
		return nil, nil
	}
	hostname := p.hostname
	if hostname == "" {
		var err error
		if hostname, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("name a pod that has no name: %w", err)
		}
	}
	files := map[string]string{"hostname": hostname + "\n"}
	if p.dns != nil {
		files["resolv.conf"] = p.dns.resolvConf()
	}
	for _, name := range []string{"hosts", "resolv.conf"} {
		if _, ok := files[name]; ok {
			continue
		}
		data, err := os.ReadFile("/etc/" + name)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("copy the host's file for a pod: %w", err)
		}
		files[name] = string(data)
	}
	return files, nil
}
