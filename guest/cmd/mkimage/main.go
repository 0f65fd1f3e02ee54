// Command mkimage builds the guest's initial RAM file system.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hyperhq/hyper/guest/image"
)

const usage = `usage: mkimage --init AGENT [--modules-dir DIR [--module NAME]...] [-o FILE]
       mkimage --list FILE

Build the guest's initial RAM file system: an uncompressed newc cpio archive with the agent as /init,
the directories it needs and, for a modular kernel, the modules to load. The same inputs give the same bytes.

Examples:
  A kernel with everything built in:
    mkimage --init _output/libexec/hyper-agent -o initrd.img
  A distribution's kernel, with the modules that Hyper needs:
    mkimage --init _output/libexec/hyper-agent --modules-dir /lib/modules/6.1.0-56-cloud-amd64 -o initrd.img
  The same, with a file system more:
    mkimage --init ... --modules-dir ... --module default --module xfs -o initrd.img
  What is in an image:
    mkimage --list initrd.img

Flags:
`

func main() {
	err := run(os.Args[1:], os.Stdout, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("mkimage", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	var (
		spec    image.Spec
		modules names
		out     = flags.String("o", "initrd.img", "the `file` to write; it appears whole or not at all")
		list    = flags.String("list", "", "print what is in the image `file`, and build nothing")
	)
	flags.StringVar(&spec.Init, "init", "", "the statically linked `program` that becomes the guest's PID 1 (required)")
	flags.StringVar(&spec.ModulesDir, "modules-dir", "",
		"the kernel's module `directory`, with modules.dep (depmod makes it); omit it for a kernel without modules")
	flags.Var(&modules, "module",
		"a module to load, by `name`, in this order; \"default\" is the list that Hyper needs, and is what you get without this flag")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q; see --help", flags.Arg(0))
	case *list != "":
		return show(stdout, *list)
	case spec.Init == "":
		return errors.New("--init is required: the agent to run as PID 1; see --help")
	case spec.ModulesDir == "" && len(modules) > 0:
		return errors.New("--module needs --modules-dir: where the kernel's modules are")
	case spec.ModulesDir != "":
		spec.Modules = modules.expand()
	}
	return build(*out, spec)
}

// build writes beside the image first, so that a VM that starts meanwhile never sees half of one.
func build(out string, spec image.Spec) error {
	f, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := image.Build(w, spec); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), out)
}

func show(w io.Writer, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	entries, err := image.Read(bufio.NewReader(f))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, e := range entries {
		fmt.Fprintf(w, "%06o %10d /%s\n", e.Mode, len(e.Data), e.Name)
	}
	return nil
}

// names is a flag that may be given several times, or once with commas.
type names []string

func (n *names) String() string { return strings.Join(*n, ",") }

func (n *names) Set(s string) error {
	for name := range strings.SplitSeq(s, ",") {
		if name == "" {
			return errors.New("empty name")
		}
		*n = append(*n, name)
	}
	return nil
}

func (n names) expand() []string {
	if len(n) == 0 {
		return image.DistributionModules()
	}
	var all []string
	for _, name := range n {
		if name == "default" {
			all = append(all, image.DistributionModules()...)
		} else {
			all = append(all, name)
		}
	}
	return all
}
