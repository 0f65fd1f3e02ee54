package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/hyperhq/hyper/proto/channel"
	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// warmTimeout bounds a session that the agent has with itself.
const warmTimeout = 10 * time.Second

// warm has Go's packages do what they do once in a program's life, so that no clone has
// to: of a type, package json learns when it meets the first value, and package protobuf
// of a message.
func (a *Agent) warm(ctx context.Context) error {
	if err := warmSpec(); err != nil {
		return fmt.Errorf("decoding a container's configuration ahead of time: %w", err)
	}
	if err := warmMessages(agentv1.File_hyper_agent_v1_agent_proto.Messages()); err != nil {
		return fmt.Errorf("coding messages ahead of time: %w", err)
	}
	if err := a.warmSession(ctx); err != nil {
		return fmt.Errorf("having a session ahead of time: %w", err)
	}
	return nil
}

func warmSpec() error {
	data, err := json.Marshal(specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}, Rlimits: []specs.POSIXRlimit{{}}},
		Root:    &specs.Root{},
		Mounts:  []specs.Mount{{}},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{}},
			Devices:    []specs.LinuxDevice{{}},
			Seccomp:    &specs.LinuxSeccomp{Syscalls: []specs.LinuxSyscall{{Args: []specs.LinuxSeccompArg{{}}}}},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{}}, Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}, Pids: &specs.LinuxPids{},
			},
		},
	})
	if err != nil {
		return err
	}
	return json.Unmarshal(data, new(specs.Spec))
}

func warmMessages(list protoreflect.MessageDescriptors) error {
	for i := range list.Len() {
		kind, err := protoregistry.GlobalTypes.FindMessageByName(list.Get(i).FullName())
		if err != nil {
			return err
		}
		message := kind.New()
		fields := list.Get(i).Fields()
		for j := range fields.Len() {
			if f := fields.Get(j); f.Kind() == protoreflect.MessageKind && !f.IsList() && !f.IsMap() {
				message.Mutable(f) // it is coded too, if only as an empty one
			}
		}
		data, err := proto.Marshal(message.Interface())
		if err != nil {
			return err
		}
		if err := proto.Unmarshal(data, kind.New().Interface()); err != nil {
			return err
		}
	}
	return nil
}

// warmSession is the host of a session, which asks what changes nothing. Nothing is left
// of it.
func (a *Agent) warmSession(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	host, guest := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- a.serveSession(ctx, guest) }() // ends with the pipe, so with this
	err := askNothing(ctx, host)
	host.Close()
	if ended := <-served; err == nil && ended != nil {
		a.log.debugf("a session that the agent had with itself: %v", ended)
	}
	return err
}

func askNothing(ctx context.Context, conn net.Conn) error {
	session, err := channel.Connect(ctx, conn)
	if err != nil {
		return err
	}
	defer session.Close()
	control, err := session.Open(ctx, channel.Header{Kind: channel.Control})
	if err != nil {
		return err
	}
	client := ttrpc.NewClient(control)
	defer client.Close()
	_, err = agentv1.NewAgentClient(client).WaitProcess(ctx, &agentv1.ProcessRef{ContainerId: "none"})
	if !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		return errors.Join(errors.New("there is a container that nobody has made"), err)
	}
	return nil
}
