package hyperctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/urfave/cli/v3"
)

const about = `hyperctl reads what the shims of Hyper write down while they live, and what their
processes use. It asks none of them anything, and changes nothing.

   hyperctl list                 every sandbox of this host, a line each
   hyperctl list --json | jq .   with each phase of the start, and each process
   hyperctl metrics              the same for Prometheus, in its text format

The collector for text files of Prometheus' node exporter takes it like this, by a
timer or by cron:

   hyperctl metrics --output /var/lib/node_exporter/hyper.prom`

// Main runs the program and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	if err := command(stdout, stderr).Run(context.Background(), args); err != nil {
		fmt.Fprintln(stderr, "hyperctl:", err)
		return 1
	}
	return 0
}

func command(stdout, stderr io.Writer) *cli.Command {
	root := &cli.StringFlag{
		Name: "run-dir", Value: "/run/hyper", Sources: cli.EnvVars("HYPER_RUN_DIR"),
		Usage: "where the shims have their run directories",
	}
	return &cli.Command{
		Name:         "hyperctl",
		Usage:        "look at the sandboxes of this host",
		Description:  about,
		Version:      version(),
		Flags:        []cli.Flag{root},
		Action:       noCommand,
		OnUsageError: usageError,
		Writer:       stdout,
		ErrWriter:    stderr,
		// The error is ours to print, once, and the exit code too.
		ExitErrHandler: func(context.Context, *cli.Command, error) {},
		Commands: []*cli.Command{
			{
				Name:         "list",
				Aliases:      []string{"ls"},
				Usage:        "list the sandboxes: how each started, its processes and their memory",
				Flags:        []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "as JSON, with all that is known"}},
				Action:       listCommand,
				OnUsageError: usageError,
			},
			{
				Name:         "metrics",
				Usage:        "print start times and usage in Prometheus' text format",
				Flags:        []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write to `FILE`, which is replaced at once"}},
				Action:       metricsCommand,
				OnUsageError: usageError,
			},
		},
	}
}

// version is that of the module, as the build recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// noCommand shows the help, or says which command there is not.
func noCommand(_ context.Context, c *cli.Command) error {
	if name := c.Args().First(); name != "" {
		return fmt.Errorf("there is no command %q: see hyperctl --help", name)
	}
	return cli.ShowRootCommandHelp(c)
}

// usageError leaves the help, which would hide the error, to those who ask for it.
func usageError(_ context.Context, c *cli.Command, err error, _ bool) error {
	return fmt.Errorf("%w: see %s --help", err, c.FullName())
}

func listCommand(_ context.Context, c *cli.Command) error {
	if err := noArguments(c); err != nil {
		return err
	}
	all, err := find(c.String("run-dir"))
	if c.Bool("json") {
		return errors.Join(err, writeJSON(c.Root().Writer, all))
	}
	return errors.Join(err, writeTable(c.Root().Writer, all, time.Now()))
}

func metricsCommand(_ context.Context, c *cli.Command) error {
	if err := noArguments(c); err != nil {
		return err
	}
	all, err := find(c.String("run-dir"))
	return errors.Join(err, printMetrics(c, all))
}

// noArguments refuses what would only seem to choose a sandbox.
func noArguments(c *cli.Command) error {
	if name := c.Args().First(); name != "" {
		return fmt.Errorf("%s takes no argument %q: see %s --help", c.Name, name, c.FullName())
	}
	return nil
}

func printMetrics(c *cli.Command, all []sandbox) error {
	path := c.String("output")
	if path == "" {
		return writeMetrics(c.Root().Writer, all)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".hyperctl-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // fails once it has its name
	err = errors.Join(writeMetrics(f, all), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
