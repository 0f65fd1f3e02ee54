package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/hyperhq/hyper/test/image"
)

// CellOptions say of what a Cell is put together.
type CellOptions struct {
	Parts *Parts
	// Containerd is one of Parts.Containerds.
	Containerd string
	// Kernel is one of Parts.Kernels, or empty for the runtime's own choice.
	Kernel string
	// Runtime is what containers are run by: RuntimeHyper or RuntimeRunc.
	Runtime string
	// Image is imported into containerd.
	Image *image.Image
	// Templates is a directory of templates that other cells may use at the same time,
	// or empty for one of the cell's own.
	Templates string
	// Reaper is this process's.
	Reaper *Reaper
	// CRI is nil for a containerd without it.
	CRI *CRI
	// Host is nil for a containerd that runs where this process does.
	Host *Host
}

// Cell is one private containerd with one guest kernel and one runtime.
type Cell struct {
	// Dir is where everything of this cell is.
	Dir string
	// Namespace is the containerd namespace of this cell's containers.
	Namespace string
	// Runtime is the runtime's name, as containerd knows it.
	Runtime string
	// Version is containerd's, such as "2.4.2".
	Version string
	// Parts is what the cell is made from.
	Parts *Parts

	options CellOptions
	// runtimeOptions are what containerd passes on to the runtime, or nil.
	runtimeOptions *anypb.Any
	// always is applied to each container's specification, before its own options.
	always []Option

	chainID string
	kernel  string
	reaper  *Reaper
	daemon  *daemon
	client  *client
	serial  atomic.Int64
}

// NewCell starts a containerd and imports the image. Close ends it.
func NewCell(ctx context.Context, o CellOptions) (*Cell, error) {
	dir, err := makeDir()
	if err != nil {
		return nil, fmt.Errorf("making a directory for containerd: %w", err)
	}
	bin := filepath.Join(o.Containerd, "bin")
	c := &Cell{
		Dir: dir, Namespace: namespaceOf(dir), Runtime: o.Runtime, Version: version(o.Containerd), Parts: o.Parts,
		options: o, chainID: o.Image.ChainID, kernel: o.Kernel, reaper: o.Reaper,
		daemon: &daemon{
			dir: dir, bin: bin, reaper: o.Reaper, host: o.Host,
			path: strings.Join([]string{filepath.Join(o.Parts.Output, "bin"), bin, o.Parts.RuncBin, os.Getenv("PATH")}, ":"),
		},
	}
	if err := c.begin(ctx, o); err != nil {
		err = fmt.Errorf("starting containerd %s: %w\n%s", c.Version, err, c.LogSince(0))
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cell) begin(ctx context.Context, o CellOptions) error {
	if err := c.Configure(""); err != nil {
		return err
	}
	if err := c.configureCell(os.Getenv(templatesVariable) != "off"); err != nil {
		return err
	}
	if err := c.daemon.writeConfig(o.CRI != nil); err != nil {
		return err
	}
	if o.CRI != nil {
		if err := c.writeCRIConfig(o.CRI); err != nil {
			return err
		}
	}
	if err := c.StartContainerd(ctx); err != nil {
		return err
	}
	file := filepath.Join(c.Dir, "image.tar")
	if err := o.Image.WriteFile(file); err != nil {
		return err
	}
	if o.CRI != nil {
		if err := c.importImages(ctx, file); err != nil {
			return err
		}
	} else if err := c.ctrIn(ctx, c.Namespace, "images", "import", file); err != nil {
		return err
	}
	return os.Remove(file)
}

// Configure writes the runtime's configuration file: what the cell needs, and
// more. It is read anew by each shim.
func (c *Cell) Configure(more string) error {
	return os.WriteFile(filepath.Join(c.Dir, "hyper.toml"), []byte(c.GuestConfig()+more), 0o644)
}

// ConfigureOnly writes the runtime's configuration file as it is given.
func (c *Cell) ConfigureOnly(text string) error {
	return os.WriteFile(filepath.Join(c.Dir, "hyper.toml"), []byte(text), 0o644)
}

// templatesVariable is "off" for cells whose machines all boot.
const templatesVariable = "HYPER_TEST_TEMPLATES"

// configureCell writes a file beside the runtime's configuration by which the cell has
// its templates, or none, images of layers of its own, and no pool: what waits there
// would be taken for a leak. A machine has as long to boot as a request may take.
func (c *Cell) configureCell(templates bool) error {
	return c.DropIn("00-cell.toml", fmt.Sprintf("[sandbox]\nboot_timeout = %q\n[template]\nenable = %v\ndirectory = %q\nmax_count = 32\n[rootfs]\nlayers = %q\n[pool]\nenable = false\n",
		Slowly(Patience), templates, c.CommonTemplates(), c.LayersDir()))
}

// CommonTemplates is the directory of the templates that the cell's machines have unless a
// test configures another.
func (c *Cell) CommonTemplates() string { return cmp.Or(c.options.Templates, c.Templates()) }

// Templates is a directory for templates of the cell's own.
func (c *Cell) Templates() string { return filepath.Join(c.Dir, "templates") }

// Guest is the cell's kernel and image.
func (c *Cell) Guest() (kernel, image string) { return c.Parts.Kernel(c.kernel) }

// GuestConfig is the [guest] table that chooses the cell's kernel.
func (c *Cell) GuestConfig() string {
	if c.kernel == "" {
		return ""
	}
	kernel, img := c.Guest()
	return fmt.Sprintf("[guest]\nkernel = %q\nimage = %q\n", kernel, img)
}

// LayersDir is where the runtime keeps images of layers.
func (c *Cell) LayersDir() string { return filepath.Join(c.Dir, "layers") }

// StartContainerd starts the cell's containerd, which must not run, and returns
// when it serves.
func (c *Cell) StartContainerd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Slowly(Patience))
	defer cancel()
	if err := c.daemon.start(); err != nil {
		return err
	}
	// A containerd that ends at once ends the wait.
	go func(done <-chan struct{}) {
		select {
		case <-done:
			cancel()
		case <-ctx.Done():
		}
	}(c.daemon.done)
	client, err := dial(ctx, c.daemon.socket(), c.Namespace)
	if err != nil {
		return fmt.Errorf("waiting for containerd to serve: %w", err)
	}
	c.client = client
	return nil
}

// StopContainerd ends containerd with a signal. What it runs lives on.
func (c *Cell) StopContainerd(sig unix.Signal) error {
	if c.client != nil {
		c.client.Close()
		c.client = nil
	}
	return c.daemon.end(sig)
}

// Close ends containerd, and then whatever is left of the cell; it is an error
// if something was.
func (c *Cell) Close() error {
	err := c.StopContainerd(unix.SIGTERM)
	killBelonging(c.Dir)
	return errors.Join(err, removeDir(c.Dir))
}

// Ctr runs ctr and returns what it printed on both streams.
func (c *Cell) Ctr(ctx context.Context, args ...string) (string, error) {
	var out strings.Builder
	cmd := c.CtrCommand(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := c.reaper.Run(cmd)
	return out.String(), err
}

// CtrCommand is a ctr that is to be run with RunCommand.
func (c *Cell) CtrCommand(ctx context.Context, args ...string) *exec.Cmd {
	return c.daemon.ctr(ctx, c.Namespace, args...)
}

// Command is a program that is to be run with RunCommand where containerd runs, and
// with its environment.
func (c *Cell) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return c.daemon.command(ctx, name, args...)
}

// RunCommand runs a command to its end.
func (c *Cell) RunCommand(cmd *exec.Cmd) error { return c.reaper.Run(cmd) }

// ShimCommand is the runtime's shim as containerd would call it in bundle.
func (c *Cell) ShimCommand(ctx context.Context, bundle, id string, args ...string) *exec.Cmd {
	args = append([]string{"-namespace", c.Namespace, "-address", c.daemon.socket(), "-id", id}, args...)
	name := "containerd-shim-" + strings.ReplaceAll(strings.TrimPrefix(c.Runtime, "io.containerd."), ".", "-")
	cmd := exec.CommandContext(ctx, filepath.Join(c.Parts.Output, "bin", name), args...)
	cmd.Dir = bundle
	cmd.Env = append(c.daemon.environment(), "TTRPC_ADDRESS="+c.daemon.socket()+".ttrpc")
	return cmd
}

// LogSize is how long containerd's log is now.
func (c *Cell) LogSize() int64 { return c.daemon.logSize() }

// LogFrom is all that containerd and its shims have logged since the log had a
// size.
func (c *Cell) LogFrom(size int64) ([]byte, error) { return c.daemon.logFrom(size) }

// LogSince is what containerd and its shims have logged since the log had a
// size, shortened for a person.
func (c *Cell) LogSince(size int64) string { return c.daemon.logSince(size) }

// NewID makes an id that no other container has.
func (c *Cell) NewID() (string, error) {
	id := fmt.Sprintf("c%d", c.serial.Add(1))
	return id, noteID(c.Dir, id)
}

// Below lists the processes of this cell's sandboxes, and those that belong to
// no cell: all below this process but what it started itself.
func (c *Cell) Below() []Process {
	var found []Process
	for _, p := range c.below() {
		if !p.Zombie() {
			found = append(found, p)
		}
	}
	return found
}

// below is Below with zombies, but for those that only wait for the reaper.
// Other cells may run in this process at the same time: theirs are left out.
func (c *Cell) below() []Process {
	self := os.Getpid()
	var found []Process
	below, all := family(self)
	for _, p := range below {
		if c.reaper.owns(p.PID) || p.Parent == self && p.Zombie() || builderOf(all, p) != 0 {
			continue
		}
		if dir := dirOf(all, p); dir == "" || dir == c.Dir {
			found = append(found, p)
		}
	}
	return found
}

// Builders lists the builders of templates of this cell. They and what is below them
// are nobody's leaks: they outlive the pod that needed the template, and end by
// themselves.
func (c *Cell) Builders() []Process {
	var found []Process
	below, all := family(os.Getpid())
	for _, p := range below {
		if builderOf(all, p) == p.PID && !p.Zombie() && dirOf(all, p) == c.Dir {
			found = append(found, p)
		}
	}
	return found
}

// builderOf is the builder of templates that a process is or is below, or 0.
func builderOf(all map[int]Process, p Process) int {
	for self := os.Getpid(); p.PID != 0 && p.PID != self; p = all[p.Parent] {
		if len(p.Args) > 0 && p.Args[len(p.Args)-1] == "build-template" {
			return p.PID
		}
	}
	return 0
}

// Program lists those of Below whose executable has a name, such as
// "qemu-system-x86_64" or "containerd-shim-hyper-v2".
func (c *Cell) Program(name string) []Process {
	var found []Process
	for _, p := range c.Below() {
		if strings.HasPrefix(filepath.Base(p.Exe), name) {
			found = append(found, p)
		}
	}
	return found
}

// Shim is the shim process of a sandbox of this cell.
func (c *Cell) Shim(id string) (Process, bool) {
	for _, p := range c.Program("containerd-shim-") {
		if p.Args[len(p.Args)-1] == "build-image" {
			continue // the shim has started it
		}
		if argument(p, "-id") == id && argument(p, "-namespace") == c.Namespace {
			return p, true
		}
	}
	return Process{}, false
}

// argument is the value of a flag of a process.
func argument(p Process, flag string) string {
	for i, arg := range p.Args {
		if arg == flag && i+1 < len(p.Args) {
			return p.Args[i+1]
		}
	}
	return ""
}
