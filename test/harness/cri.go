package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/hyperhq/hyper/test/image"
)

// CRI asks for a containerd that serves the Container Runtime Interface, with a
// CNI bridge network. The network's bridge, routes and packet filter rules are
// made in this process's network namespace, which must not be the host's.
type CRI struct {
	// Sandboxer is containerd's way to make pods with the cell's runtime:
	// SandboxerPodsandbox or SandboxerShim.
	Sandboxer string
	// Plugins is the directory of the CNI plugins, such as /usr/lib/cni.
	Plugins string
}

// NetworkPlugins is the directory in which the cell finds the CNI plugins: links
// that a test may replace.
func (c *Cell) NetworkPlugins() string { return filepath.Join(c.Dir, "cni", "bin") }

// The ways in which containerd makes a pod.
const (
	SandboxerPodsandbox = "podsandbox" // a container of the pause image
	SandboxerShim       = "shim"       // by the runtime's sandbox service
)

// The network that the pods of a cell with CRI are in.
const (
	PodNetwork4 = "10.213.7.0/24"
	PodNetwork6 = "fd00:213:7::/64"
	PodGateway4 = "10.213.7.1"
	PodGateway6 = "fd00:213:7::1"
	PodMTU      = 1400
)

// criNamespace is containerd's namespace of all that CRI makes.
const criNamespace = "k8s.io"

// Socket is where containerd serves.
func (c *Cell) Socket() string { return c.daemon.socket() }

// Handler is the name under which CRI knows the cell's runtime. That of io.containerd.runc.v2 is runc.
func (c *Cell) Handler() string {
	name := strings.TrimPrefix(c.Runtime, "io.containerd.")
	return name[:max(0, strings.LastIndexByte(name, '.'))]
}

// The configurations of containerd 2 and 1. A test run may lack CAP_SYS_RESOURCE
// and need not have AppArmor; what lies in /etc is not for it.
var (
	criConfiguration = template.Must(template.New("cri").Parse(`
[plugins."io.containerd.nri.v1.nri"]
  disable = true

[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  stats_collect_period = 1
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{{.Pause}}"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = false
  netns_mounts_under_state_dir = true
  cdi_spec_dirs = []
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{{.Dir}}/cni/bin"]
    conf_dir = "{{.Dir}}/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "{{.Handler}}"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{{.Handler}}]
      runtime_type = "{{.Runtime}}"
      sandboxer = "{{.Sandboxer}}"
      disable_pause_image_pull = {{eq .Sandboxer "shim"}}
      privileged_without_host_devices = true
`))

	criConfiguration1 = template.Must(template.New("cri").Parse(`
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  sandbox_image = "{{.Pause}}"
  stats_collect_period = 1
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = false
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{{.Dir}}/cni/bin"
    conf_dir = "{{.Dir}}/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "{{.Handler}}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{{.Handler}}]
      runtime_type = "{{.Runtime}}"
      privileged_without_host_devices = true
`))
)

// cniConfiguration is a network as a node of one machine has it.
var cniConfiguration = template.Must(template.New("cni").Parse(`{
  "cniVersion": "1.0.0",
  "name": "{{.Network}}",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "mtu": {{.MTU}},
      "ipam": {
        "type": "host-local", "dataDir": "{{.Dir}}/cni/addresses",
        "ranges": [[{"subnet": "{{.Network4}}"}], [{"subnet": "{{.Network6}}"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`))

// writeCRIConfig adds to containerd's configuration, and writes that of CNI.
func (c *Cell) writeCRIConfig(o *CRI) error {
	plugins, err := filepath.Glob(filepath.Join(o.Plugins, "*"))
	if err != nil || len(plugins) == 0 {
		return fmt.Errorf("there are no CNI plugins in %q: install containernetworking-plugins", o.Plugins)
	}
	conf := filepath.Join(c.Dir, "cni", "net.d")
	for _, dir := range []string{conf, c.NetworkPlugins()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, plugin := range plugins {
		if err := os.Symlink(plugin, filepath.Join(c.NetworkPlugins(), filepath.Base(plugin))); err != nil {
			return err
		}
	}
	values := map[string]any{
		"Dir": c.Dir, "Pause": image.Pause, "Runtime": c.Runtime, "Handler": c.Handler(), "Sandboxer": o.Sandboxer,
		"Network": c.Namespace, "Network4": PodNetwork4, "Network6": PodNetwork6, "MTU": PodMTU,
	}
	daemon := criConfiguration
	if strings.HasPrefix(c.Version, "1.") {
		daemon = criConfiguration1
	}
	if err := appendTo(filepath.Join(c.Dir, "config.toml"), daemon, values); err != nil {
		return err
	}
	return appendTo(filepath.Join(conf, "10-test.conflist"), cniConfiguration, values)
}

// appendTo adds a text to a file that need not be there.
func appendTo(file string, text *template.Template, values any) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	err = text.Execute(f, values)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}

// importImages puts the archive's images where CRI finds them. It learns of them
// by an event, a moment later.
func (c *Cell) importImages(ctx context.Context, file string) error {
	if err := c.ctrIn(ctx, criNamespace, "images", "import", file); err != nil {
		return err
	}
	for _, name := range []string{image.Name, image.Pause} {
		if err := c.ctrIn(ctx, criNamespace, "images", "label", name, "io.cri-containerd.image=managed"); err != nil {
			return err
		}
	}
	return nil
}

// ctrIn runs ctr in another namespace than the cell's.
func (c *Cell) ctrIn(ctx context.Context, namespace string, args ...string) error {
	var out strings.Builder
	cmd := c.daemon.ctr(ctx, namespace, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := c.reaper.Run(cmd); err != nil {
		return fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, out.String())
	}
	return nil
}

// cniResults are the files in which CNI's library remembers the networks of a
// directory's pods. Their place cannot be chosen; they name the pods' network
// namespaces, which are in the directory.
func cniResults(dir string) []string {
	files, _ := filepath.Glob("/var/lib/cni/results/*")
	return slices.DeleteFunc(files, func(file string) bool {
		data, err := os.ReadFile(file)
		return err != nil || !strings.Contains(string(data), dir+"/")
	})
}
