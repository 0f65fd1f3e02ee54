package cri

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/hyperhq/hyper/test/harness"
)

// What the kubelet's streaming protocols call their parts. Their client is a few
// lines over SPDY, so that the tests do without Kubernetes' whole client library.
const (
	commandProtocol = "v4.channel.k8s.io"
	forwardProtocol = "portforward.k8s.io"
	streamType      = "streamType"
)

// upgrade begins a streaming protocol at a URL that CRI gave. What is left of it
// ends with the test.
func (n *node) upgrade(t *testing.T, url, protocol string) httpstream.Connection {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Slowly(patience))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	request.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	request.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	conn, err := n.network.Dial("tcp", request.URL.Host, harness.Slowly(patience))
	if err != nil {
		t.Fatalf("connecting to the streaming server: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(harness.Slowly(patience)))
	if err := request.Write(conn); err != nil {
		t.Fatalf("asking for %s: %v", url, err)
	}
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, request)
	if err != nil {
		t.Fatalf("asking for %s: %v", url, err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(response.Body)
		t.Fatalf("asking for %s: %s: %s", url, response.Status, body)
	}
	conn.SetDeadline(time.Time{})
	c, err := spdy.NewClientConnection(&buffered{conn, in})
	if err != nil {
		t.Fatalf("beginning SPDY: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// buffered is a connection of which some bytes have been read ahead.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// command is an exec or an attached container, seen by a client.
type command struct {
	stdin, resize          io.WriteCloser
	stdout, stderr, status io.Reader
}

// streamed are the streams that a command is to have.
type streamed struct{ stdin, stdout, stderr, tty bool }

// attachTo opens the streams of a command.
func (n *node) attachTo(t *testing.T, url string, s streamed) *command {
	t.Helper()
	conn := n.upgrade(t, url, commandProtocol)
	open := func(kind string, wanted bool) httpstream.Stream {
		if !wanted {
			return nil
		}
		header := http.Header{}
		header.Set(streamType, kind)
		stream, err := conn.CreateStream(header)
		if err != nil {
			t.Fatalf("opening the stream %s: %v", kind, err)
		}
		return stream
	}
	c := &command{status: open("error", true)}
	// An interface that holds a nil stream is not nil.
	if stream := open("stdin", s.stdin); stream != nil {
		c.stdin = stream
	}
	if stream := open("stdout", s.stdout); stream != nil {
		c.stdout = stream
	}
	if stream := open("stderr", s.stderr); stream != nil {
		c.stderr = stream
	}
	if stream := open("resize", s.tty); stream != nil {
		c.resize = stream
	}
	return c
}

// setSize tells the terminal's size.
func (c *command) setSize(t *testing.T, width, height uint16) {
	t.Helper()
	if err := json.NewEncoder(c.resize).Encode(struct{ Width, Height uint16 }{width, height}); err != nil {
		t.Fatalf("telling the terminal's size: %v", err)
	}
}

// exit waits for the command's end and returns its exit status.
func (c *command) exit(t *testing.T) int {
	t.Helper()
	data := readAll(t, c.status)
	if len(data) == 0 { // an attached container does not tell
		return 0
	}
	var status struct {
		Status, Message string
		Details         struct {
			Causes []struct{ Reason, Message string }
		}
	}
	if err := json.Unmarshal([]byte(data), &status); err != nil {
		t.Fatalf("the command's status is %q: %v", data, err)
	}
	if status.Status == "Success" {
		return 0
	}
	for _, cause := range status.Details.Causes {
		if code, err := strconv.Atoi(cause.Message); err == nil && cause.Reason == "ExitCode" {
			return code
		}
	}
	t.Fatalf("the command failed: %s", data)
	return -1
}

// forward opens one connection to a port of a pod.
func (n *node) forward(t *testing.T, url string, port int) (data httpstream.Stream, failure io.Reader) {
	t.Helper()
	conn := n.upgrade(t, url, forwardProtocol)
	open := func(kind string) httpstream.Stream {
		header := http.Header{}
		header.Set("port", strconv.Itoa(port))
		header.Set("requestID", "0")
		header.Set(streamType, kind)
		stream, err := conn.CreateStream(header)
		if err != nil {
			t.Fatalf("opening the stream of %s: %v", kind, err)
		}
		return stream
	}
	errors := open("error")
	errors.Close() // nothing is written to it
	return open("data"), errors
}

// readAll reads a stream to its end, which must come within patience.
func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() { // ends at the latest when the test closes its connections
		data, err := io.ReadAll(r)
		done <- result{data, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			t.Fatalf("reading a stream: %v", r.err)
		}
		return string(r.data)
	case <-time.After(harness.Slowly(patience)):
		t.Fatal("a stream did not end")
		return ""
	}
}

// readUntil reads lines until one is wanted.
func readUntil(t *testing.T, r *bufio.Reader, wanted func(line string) bool) string {
	t.Helper()
	type result struct {
		line string
		err  error
	}
	done := make(chan result, 1)
	go func() { // ends at the latest when the test closes its connections
		var seen string
		for {
			line, err := r.ReadString('\n')
			if seen += line; err != nil {
				done <- result{seen, fmt.Errorf("%w after %q", err, seen)}
				return
			}
			if wanted(line) {
				done <- result{line, nil}
				return
			}
		}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			t.Fatalf("reading a stream: %v", r.err)
		}
		return r.line
	case <-time.After(harness.Slowly(patience)):
		t.Fatal("a stream did not say what was waited for")
		return ""
	}
}
