package shim

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
)

// invocation is the command line that containerd gives.
type invocation struct {
	Namespace string
	ID        string
	Address   string // containerd's gRPC socket
	Bundle    string // of delete; otherwise it is the working directory
	Debug     bool
	Version   bool
	Info      bool
	RunDir    string // of the server: ours, not containerd's
	Pool      string // of the server: the key of the pool that start has looked in
	Action    string
}

const usageText = `containerd runs this program: it is the runtime io.containerd.hyper.v2.
Put it on containerd's PATH and name the runtime, for example:

  ctr run --rm --runtime io.containerd.hyper.v2 docker.io/library/busybox:latest demo uname -a

The configuration is /etc/hyper/config.toml, or the file that $HYPER_CONFIG names
in containerd's environment. By hand there is only -v, the version, and -info.

Usage: containerd-shim-hyper-v2 [flags] [start | delete]

`

// internal begins the description of a flag that is nobody's to set by hand.
const internal = "internal: "

// printUsage leaves out the internal flags.
func printUsage(fs *flag.FlagSet) {
	shown := flag.NewFlagSet(fs.Name(), flag.ContinueOnError)
	shown.SetOutput(fs.Output())
	fs.VisitAll(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Usage, internal) {
			shown.Var(f.Value, f.Name, f.Usage)
		}
	})
	fmt.Fprint(fs.Output(), usageText)
	shown.PrintDefaults()
}

func parseFlags(args []string, usage io.Writer) (invocation, error) {
	var i invocation
	fs := flag.NewFlagSet("containerd-shim-hyper-v2", flag.ContinueOnError)
	fs.SetOutput(usage)
	fs.Usage = func() { printUsage(fs) }
	fs.StringVar(&i.Namespace, "namespace", "", "containerd namespace of the task")
	fs.StringVar(&i.ID, "id", "", "id of the task")
	fs.StringVar(&i.Address, "address", "", "containerd's gRPC socket")
	fs.StringVar(&i.Bundle, "bundle", "", "the task's bundle, if it is not the working directory")
	fs.BoolVar(&i.Debug, "debug", false, "log more")
	fs.BoolVar(&i.Version, "v", false, "print the version")
	fs.BoolVar(&i.Version, "version", false, "print the version")
	fs.BoolVar(&i.Info, "info", false, "print what the runtime can do, as a containerd.types.RuntimeInfo")
	fs.StringVar(&i.RunDir, "run-dir", "", internal+"the server's run directory")
	fs.StringVar(&i.Pool, "pool", "", internal+"the pool's key of the server's pod")
	for _, name := range []string{"publish-binary", "socket", "debug-socket"} {
		_ = fs.String(name, "", internal+"containerd gives it, and nothing here needs it")
	}
	if err := fs.Parse(args); err != nil {
		return i, fmt.Errorf("command line: %w", errors.Join(err, errdefs.ErrInvalidArgument))
	}
	i.Action = fs.Arg(0)
	if i.Version || i.Info {
		return i, nil
	}
	if i.Namespace == "" || i.ID == "" {
		return i, fmt.Errorf("command line: -namespace and -id must be given; this program is run by containerd: %w", errdefs.ErrInvalidArgument)
	}
	return i, nil
}
