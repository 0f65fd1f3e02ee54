// Command host boots another host in an emulated machine, and runs commands there.
//
// The machine's processor has AMD's virtualization, emulated too, and its kernel is the
// distribution's for any machine. So there are a KVM that works, vhost and cgroups of
// version 2 there, on a machine which has none of them: slow, but real. Its root file
// system is the one of this machine, which it cannot write to, with a disk above it.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const usage = `usage: host [flags] [-- SCRIPT]

Boot a host in an emulated machine, run SCRIPT in it with bash, and exit as it does.
Without a script every line of standard input is one. The machine ends with this program.

Flags:
`

func main() {
	flag.Usage = func() {
		fmt.Fprint(os.Stderr, usage)
		flag.PrintDefaults()
	}
	spec := machineSpec{}
	flag.IntVar(&spec.memoryMiB, "memory", 8192, "memory of the machine, in `MiB`")
	flag.IntVar(&spec.processors, "cpus", 2, "processors of the machine")
	flag.StringVar(&spec.processor, "cpu", defaultProcessor, "QEMU's `name` of the processor, and its features")
	flag.StringVar(&spec.console, "console", "", "keep what the kernel says in a `file`")
	patience := flag.Duration("timeout", time.Hour, "how long all may take")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *patience)
	defer cancel()
	status, err := run(ctx, spec, strings.Join(flag.Args(), " "))
	if err != nil {
		fmt.Fprintln(os.Stderr, "host:", err)
		status = 1
	}
	os.Exit(status)
}

// run boots the machine, and has it run the script or those on standard input.
func run(ctx context.Context, spec machineSpec, script string) (status int, err error) {
	dir, err := os.MkdirTemp("", "hyper-host-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	begin := time.Now()
	parts, err := prepare(ctx, dir)
	if err != nil {
		return 0, err
	}
	m, err := boot(ctx, spec, parts)
	if err != nil {
		return 0, errors.Join(context.Cause(ctx), err)
	}
	defer m.end()
	if status, err := m.run(prelude(parts), os.Stderr); err != nil || status != 0 {
		return 0, m.explain(errors.Join(err, fmt.Errorf("make the machine a host: exit status %d", status)))
	}
	fmt.Fprintf(os.Stderr, "host: up after %.1f s\n", time.Since(begin).Seconds())
	if script != "" {
		status, err = m.run(script, os.Stdout)
	} else {
		status, err = interact(ctx, m, os.Stdin, os.Stdout)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return 0, m.explain(err)
	}
	return status, nil
}

// prelude makes the kernel's modules available to modprobe, and loads those of a host of
// virtual machines. KVM's device gets a group of its own, as a device manager would see to.
func prelude(parts parts) string {
	return fmt.Sprintf(`set -e
to=/lib/modules/$(uname -r); mkdir -p $to; mount --bind %s/modules $to
for module in kvm_amd vhost_vsock vhost_net tun loop; do modprobe $module; done
chgrp 108 /dev/kvm; chmod 660 /dev/kvm
ip link set lo up
`, parts.kernelDir)
}

// interact runs the lines that come, and says how each has ended. A line that is awaited
// when the context ends is not read any more: the program ends with this.
func interact(ctx context.Context, m *machine, in io.Reader, out io.Writer) (status int, err error) {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(in); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case line, more := <-lines:
			if !more {
				return status, nil
			}
			begin := time.Now()
			if status, err = m.run(line, out); err != nil {
				return 0, err
			}
			fmt.Fprintf(out, "[status %d after %.1f s]\n", status, time.Since(begin).Seconds())
		}
	}
}
