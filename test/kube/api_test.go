package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/hyperhq/hyper/test/harness"
)

// api is the API server, to its clients.
type api struct {
	http *http.Client
	base string
}

// newAPI is a client in a network. The server's certificate is one that it made itself.
func newAPI(network *harness.NetNS, base string) api {
	dial := func(_ context.Context, proto, address string) (net.Conn, error) {
		return network.Dial(proto, address, harness.Slowly(harness.Soon))
	}
	return api{base: base, http: &http.Client{
		Timeout: harness.Slowly(harness.Patience),
		Transport: &http.Transport{
			DialContext:       dial,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
			DisableKeepAlives: true,
		},
	}}
}

// errNotFound is the server's answer for what is not there.
var errNotFound = errors.New("not found")

// do makes a request and returns the body of its answer.
func (a api) do(t *testing.T, method, path, kind string, body string) ([]byte, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, a.base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", kind)
	response, err := a.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 8<<20))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	switch {
	case response.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%s %s: %w", method, path, errNotFound)
	case response.StatusCode >= http.StatusBadRequest:
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, response.Status, bytes.TrimSpace(data))
	}
	return data, nil
}

// get reads an object, or if into is nil looks whether it is there.
func (a api) get(t *testing.T, path string, into any) error {
	t.Helper()
	data, err := a.do(t, http.MethodGet, path, "", "")
	if err != nil || into == nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// text is what a request that must not fail answers.
func (a api) text(t *testing.T, method, path string) string {
	t.Helper()
	data, err := a.do(t, method, path, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// create makes an object of a manifest.
func (a api) create(t *testing.T, path, manifest string) {
	t.Helper()
	if _, err := a.do(t, http.MethodPost, path, "application/yaml", manifest); err != nil {
		t.Fatal(err)
	}
}

// change merges a manifest into an object.
func (a api) change(t *testing.T, path, patch string) {
	t.Helper()
	if _, err := a.do(t, http.MethodPatch, path, "application/merge-patch+json", patch); err != nil {
		t.Fatal(err)
	}
}

// delete asks for an object's end.
func (a api) delete(t *testing.T, path string) {
	t.Helper()
	if _, err := a.do(t, http.MethodDelete, path, "", ""); err != nil {
		t.Fatal(err)
	}
}

// status is what nodes and pods tell of themselves.
type status struct {
	Phase      string
	PodIP      string
	Conditions []struct{ Type, Status, Reason, Message string }
	// Of a pod.
	ContainerStatuses []struct {
		Name  string
		State json.RawMessage
	}
}

// ready is an error that says what is lacking.
func (s status) ready() error {
	for _, c := range s.Conditions {
		if c.Type == "Ready" && c.Status == "True" {
			return nil
		}
	}
	return fmt.Errorf("not ready: %+v", s)
}
