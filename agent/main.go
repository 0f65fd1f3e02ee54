package agent

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Main is the life of PID 1: it boots the guest, serves the host, and reaps
// orphans. It is called on the main thread, with the goroutine locked to it,
// and does not return: if there is no way to serve, the machine is powered off.
func Main() {
	log := &logger{w: os.Stderr, clock: sinceBoot}
	ph := &phases{}
	ph.mark("init")
	// libcontainer's and ttrpc's word for what they survive.
	logrus.SetLevel(logrus.WarnLevel)
	logrus.SetFormatter(&logrus.TextFormatter{DisableColors: true, DisableTimestamp: true})
	catchSignals()
	// Before the first child, so that no end of one is missed.
	sigchld := make(chan os.Signal, 1)
	signal.Notify(sigchld, unix.SIGCHLD)
	go func() {
		err := run(context.Background(), log, ph)
		log.infof("cannot go on: %v", err)
		powerOff()
	}()
	reap(sigchld)
}

// catchSignals keeps signals from ending PID 1, as Go would have most of them
// do. They are not ignored, because children would inherit that.
func catchSignals() {
	sink := make(chan os.Signal, 1)
	signal.Notify(sink)
}

func run(ctx context.Context, log *logger, ph *phases) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	if err := boot(log, ph); err != nil {
		return fmt.Errorf("booting: %w", err)
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("reading the kernel command line: %w", err)
	}
	o, err := parseCmdline(string(line))
	if err != nil {
		return err
	}
	log.debug = o.debug
	a, err := newAgent(log, ph)
	if err != nil {
		return err
	}
	go a.modules.load(moduleList)
	dial, err := openChannel(o)
	if err != nil {
		return err
	}
	ph.mark("channel")
	go a.settle()
	return a.serve(ctx, dial)
}

// powerOff ends the machine by resetting it, which its hypervisor is told to take
// for its end. Not every machine that Hyper uses can be switched off, and one
// that cannot would halt instead, and leave its host waiting.
func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
