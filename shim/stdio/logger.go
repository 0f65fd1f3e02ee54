package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sort"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

const (
	// loggerReady bounds a logger's start.
	loggerReady = 10 * time.Second
	// loggerFlush is what a logger has from the end of its input to its end.
	loggerFlush = 10 * time.Second
	// loggerTerm is what it has after SIGTERM.
	loggerTerm = 2 * time.Second
)

// logger is a program that takes a process's output: containerd's binary://
// protocol. Descriptors 3 and 4 are stdout and stderr to read, and it closes 5
// (having written a byte to it, for binary-v2) once it is ready.
type logger struct {
	cmd            *exec.Cmd
	stdout, stderr *os.File
	exited         chan struct{} // closed when it has been waited for
}

// loggerCommand is the command of a binary URI: each query key is an argument
// and so is its first value, in the order of the keys.
func loggerCommand(t target, id, namespace string) *exec.Cmd {
	query := t.uri.Query()
	keys := make([]string, 0, len(query))
	for k := range query {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var args []string
	for _, k := range keys {
		args = append(args, k, query[k][0])
	}
	cmd := exec.Command(t.path, args...)
	cmd.Env = []string{"CONTAINER_ID=" + id, "CONTAINER_NAMESPACE=" + namespace}
	// No Pdeathsig: it comes when the thread that forked ends, which may be long
	// before this process does. A logger ends with its input.
	return cmd
}

// startLogger starts a logger and waits, as long as ctx allows but at most
// loggerReady, until it is ready.
func startLogger(ctx context.Context, t target, id, namespace string) (_ *logger, err error) {
	var files []*os.File // read, write of stdout, stderr and ready
	defer func() {
		for i, f := range files {
			if ours := i == 1 || i == 3; err != nil || !ours {
				_ = f.Close()
			}
		}
	}()
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("make a pipe for the logger: %w", err)
		}
		files = append(files, r, w)
	}
	l := &logger{cmd: loggerCommand(t, id, namespace), stdout: files[1], stderr: files[3], exited: make(chan struct{})}
	l.cmd.ExtraFiles = []*os.File{files[0], files[2], files[5]}
	if err := l.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the logger %s: %w", t.path, err)
	}
	go func() {
		defer close(l.exited)
		if err := l.cmd.Wait(); err != nil {
			log.G(ctx).WithError(err).Warnf("logger %s", t.path)
		}
	}()
	_ = files[5].Close() // ours of the writing ends: its EOF must come from the logger
	if err := awaitReady(ctx, files[4], t.scheme == schemeBinaryReady); err != nil {
		l.end(0)
		return nil, fmt.Errorf("logger %s: %w", t.path, err)
	}
	return l, nil
}

// awaitReady waits for a byte or, unless mustSpeak, for the end of r.
func awaitReady(ctx context.Context, r *os.File, mustSpeak bool) error {
	ctx, cancel := context.WithTimeout(ctx, loggerReady)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })()
	n, err := r.Read(make([]byte, 1))
	switch {
	case n > 0, errors.Is(err, io.EOF) && !mustSpeak:
		return nil
	case errors.Is(err, io.EOF):
		return fmt.Errorf("it ended before it said that it was ready: %w", errdefs.ErrUnavailable)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it did not say that it was ready: %w", context.DeadlineExceeded)
	}
	return fmt.Errorf("wait until it is ready: %w", err)
}

// end waits until the logger, whose input has been closed, has ended; it is
// asked to after flush and killed when that does not help.
func (l *logger) end(flush time.Duration) {
	timer := time.NewTimer(flush)
	defer timer.Stop()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-l.exited:
			return
		case <-timer.C:
		}
		_ = l.cmd.Process.Signal(sig)
		timer.Reset(loggerTerm)
	}
	<-l.exited
}
