package event

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"

	events "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
)

// namespaceHeader is how containerd's ttrpc services learn the namespace.
const namespaceHeader = "containerd-namespace-ttrpc"

// Remote is containerd's event service. It connects when needed, and again
// after the connection was lost.
type Remote struct {
	address string

	mu     sync.Mutex
	client *ttrpc.Client
}

// NewRemote returns the event service at a Unix socket, given as a path or as
// a unix:// URI.
func NewRemote(address string) *Remote {
	return &Remote{address: strings.TrimPrefix(address, "unix://")}
}

// Forward delivers e. With no address it is discarded: nobody listens.
func (r *Remote) Forward(ctx context.Context, e *types.Envelope) error {
	if r.address == "" {
		return nil
	}
	client, err := r.connect(ctx)
	if err != nil {
		return err
	}
	ctx = ttrpc.WithMetadata(ctx, ttrpc.MD{namespaceHeader: {e.Namespace}})
	_, err = events.NewTTRPCEventsClient(client).Forward(ctx, &events.ForwardRequest{Envelope: e})
	if err != nil {
		r.drop(client)
		return fmt.Errorf("forward event %s to containerd: %w", e.Topic, err)
	}
	return nil
}

// Close closes the connection.
func (r *Remote) Close() error {
	r.mu.Lock()
	client := r.client
	r.client = nil
	r.mu.Unlock()
	if client == nil {
		return nil
	}
	return client.Close()
}

func (r *Remote) connect(ctx context.Context) (*ttrpc.Client, error) {
	r.mu.Lock()
	client := r.client
	r.mu.Unlock()
	if client != nil {
		return client, nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", r.address)
	if err != nil {
		return nil, fmt.Errorf("connect to containerd's event service: %w", err)
	}
	client = ttrpc.NewClient(conn)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		_ = client.Close()
		return r.client, nil
	}
	r.client = client
	return client, nil
}

// drop forgets a client that failed; the next call connects anew.
func (r *Remote) drop(client *ttrpc.Client) {
	r.mu.Lock()
	if r.client == client {
		r.client = nil
	}
	r.mu.Unlock()
	_ = client.Close()
}
