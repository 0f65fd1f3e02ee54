package shim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
)

// Name is the runtime's name to containerd.
const Name = "io.containerd.hyper.v2"

const (
	// startTimeout bounds start, but for the time that the input takes.
	startTimeout = 10 * time.Second
	// deleteTimeout bounds delete: containerd gives it five seconds.
	deleteTimeout = 4500 * time.Millisecond
)

// Main is the shim binary: args are those after its name. It returns the exit
// code.
func Main(args []string) int {
	i, err := parseFlags(args, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err == nil:
		err = run(i)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", Name, err)
		return 1
	}
	return 0
}

func run(i invocation) error {
	switch {
	case i.Version:
		return printVersion(os.Stdout)
	case i.Info:
		return printInfo(os.Stdin, os.Stdout)
	}
	switch i.Action {
	case "start":
		input, err := readBounded(os.Stdin, maxBootstrap)
		if err != nil {
			return fmt.Errorf("read standard input: %w", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		return start(ctx, i, input, os.Stdout)
	case "delete":
		ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
		defer cancel()
		return deleteTask(ctx, i, os.Stdout)
	case buildAction:
		return buildTemplate(os.Stdin)
	case parkAction:
		return park(i, os.Stdin)
	case imageAction:
		return buildImage(os.Stdin)
	case "":
		return serve(i)
	}
	return fmt.Errorf("unknown action %q, known are start and delete: %w", i.Action, errdefs.ErrInvalidArgument)
}

// printVersion says which build this is.
func printVersion(w io.Writer) error {
	version, revision := buildVersion()
	_, err := fmt.Fprintf(w, "containerd-shim-hyper-v2:\n  Version:    %s\n  Revision:   %s\n  Go version: %s\n",
		version, revision, runtime.Version())
	return err
}

// buildVersion is the module's version and revision, as the build recorded them.
func buildVersion() (version, revision string) {
	version, revision = "unknown", "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version, revision
	}
	version = info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value
		}
	}
	return version, revision
}
