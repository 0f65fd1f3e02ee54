package volume

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// Send has the guest make changes, in their order.
type Send func(context.Context, []*agentv1.VolumeChange) error

const (
	// chunk is how much of a file goes into one change, and batchSize what a
	// message holds at most, but for its last change: together less than the
	// 4 MiB that a message can be.
	chunk     = 1 << 20
	batchSize = 1 << 20
)

// sender sends steps in messages, with the data of the files.
type sender struct {
	send  Send
	root  *os.Root
	batch []*agentv1.VolumeChange
	size  int
}

func (s *sender) add(ctx context.Context, made step) error {
	if made.Kind == agentv1.VolumeChange_FILE {
		return s.addFile(ctx, made)
	}
	return s.put(ctx, made.VolumeChange)
}

// addFile adds a file in parts.
func (s *sender) addFile(ctx context.Context, made step) error {
	// Whatever has taken the file's place is not to be waited for.
	f, err := s.root.OpenFile(made.from, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for offset := int64(0); ; {
		data := make([]byte, chunk)
		n, err := io.ReadFull(f, data)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return err
		}
		if offset+int64(n) > MaxSize {
			return fmt.Errorf("%s has grown beyond %d MiB: %w", made.from, MaxSize>>20, errdefs.ErrResourceExhausted)
		}
		if n > 0 || offset == 0 {
			part := proto.Clone(made.VolumeChange).(*agentv1.VolumeChange)
			part.Data, part.Offset = data[:n:n], offset
			if err := s.put(ctx, part); err != nil {
				return err
			}
		}
		if n < chunk {
			return nil
		}
		offset += int64(n)
	}
}

func (s *sender) put(ctx context.Context, change *agentv1.VolumeChange) error {
	s.batch = append(s.batch, change)
	s.size += proto.Size(change) + 8
	if s.size < batchSize {
		return nil
	}
	return s.flush(ctx)
}

func (s *sender) flush(ctx context.Context) error {
	if len(s.batch) == 0 {
		return nil
	}
	err := s.send(ctx, s.batch)
	s.batch, s.size = nil, 0
	return err
}
