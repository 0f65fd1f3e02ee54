package harness

import (
	"context"
	"fmt"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
	"time"
)

// client is containerd's gRPC services, those that all supported versions have.
// It is deliberately thin: a test says exactly what containerd is asked.
type client struct {
	conn       *grpc.ClientConn
	containers containersapi.ContainersClient
	events     eventsapi.EventsClient
	snapshots  snapshotsapi.SnapshotsClient
	tasks      tasksapi.TasksClient
}

// dial connects and returns when containerd serves.
func dial(ctx context.Context, socket, namespace string) (*client, error) {
	quick := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.2, MaxDelay: 200 * time.Millisecond}
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(withNamespace(ctx, namespace), method, req, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return stream(withNamespace(ctx, namespace), desc, cc, method, opts...)
		}),
	)
	if err != nil {
		return nil, err
	}
	if _, err := versionapi.NewVersionClient(conn).Version(ctx, &emptypb.Empty{}); err != nil {
		conn.Close()
		return nil, fmt.Errorf("asking for its version: %w", err)
	}
	return &client{
		conn:       conn,
		containers: containersapi.NewContainersClient(conn),
		events:     eventsapi.NewEventsClient(conn),
		snapshots:  snapshotsapi.NewSnapshotsClient(conn),
		tasks:      tasksapi.NewTasksClient(conn),
	}, nil
}

func withNamespace(ctx context.Context, namespace string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", namespace)
}

func (c *client) Close() error { return c.conn.Close() }
