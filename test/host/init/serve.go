package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hyperhq/hyper/test/host/wire"
)

// lastWords is how long what a command leaves running may keep its output.
const lastWords = 2 * time.Second

// serve runs what it is asked to, one command after the other, until the port ends.
func serve() error {
	port, err := openPort()
	if err != nil {
		return err
	}
	defer port.Close()
	orders, words := json.NewDecoder(port), json.NewEncoder(port)
	word := wire.Word{Ready: true}
	for {
		if err := words.Encode(word); err != nil {
			return fmt.Errorf("say that the host is ready: %w", err)
		}
		var order wire.Order
		if err := orders.Decode(&order); errors.Is(err, io.EOF) {
			return errors.New("no more orders")
		} else if err != nil {
			return fmt.Errorf("read an order: %w", err)
		}
		status, err := run(order.Script, words)
		if err != nil {
			return err
		}
		word.Status = status
	}
}

// openPort finds the port by its name.
func openPort() (*os.File, error) {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, file := range names {
		name, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(name)) == wire.Port {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no serial port is named %s", wire.Port)
}

// run runs a script, sends what it says, and returns how it ended. What it leaves
// running goes on, and is not heard.
func run(script string, words *json.Encoder) (status int, err error) {
	out, in, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	child, err := os.StartProcess("/bin/bash", []string{"bash", "-c", script}, &os.ProcAttr{
		Dir:   "/root",
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"},
		Files: []*os.File{null, in, in},
	})
	in.Close()
	if err != nil {
		return 0, fmt.Errorf("run bash: %w", err)
	}
	heard := make(chan error, 1)
	go func() { heard <- send(out, words) }()
	status = reap(child.Pid)
	if err := out.SetReadDeadline(time.Now().Add(lastWords)); err != nil {
		return 0, err
	}
	return status, <-heard
}

// send sends what comes until its end, or its deadline.
func send(out io.Reader, words *json.Encoder) error {
	buffer := make([]byte, 32<<10)
	for {
		n, err := out.Read(buffer)
		if n > 0 {
			if err := words.Encode(wire.Word{Output: buffer[:n]}); err != nil {
				return fmt.Errorf("send output: %w", err)
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read output: %w", err)
		}
	}
}
