// Command bench measures Hyper beside runc, beside other runtimes that the host
// has, and its boot beside the least boot that there can be. What is compared is
// measured by turns. `bench -help` says what it can measure and what it writes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(2)
	case o.dry:
		o.announce(os.Stdout)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	// A second signal ends the program at once; the next run cleans up after it.
	context.AfterFunc(ctx, stop)
	err = measure(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
