package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
)

// classNotFound is QEMU's class of error for a device that is not there.
const classNotFound = "DeviceNotFound"

// IsNotFound says that QEMU refused a command because there is no such device.
func IsNotFound(err error) bool {
	var refused *Error
	return errors.As(err, &refused) && refused.Class == classNotFound
}

// PassFile hands an open file to QEMU, which keeps it under a name, a letter first,
// until a command uses it up or CloseFile is called. The file stays the caller's,
// to be closed once PassFile has returned. The connection must be a unix socket.
func (c *Client) PassFile(ctx context.Context, name string, file *os.File) error {
	return c.executeWith(ctx, "getfd", map[string]string{"fdname": name}, file, nil)
}

// CloseFile closes a file that QEMU keeps. QEMU refuses it if it has none of that
// name, one that was used up for example.
func (c *Client) CloseFile(ctx context.Context, name string) error {
	return c.execute(ctx, "closefd", map[string]string{"fdname": name}, nil)
}

// AddTap makes the host's side of a network card out of the queues of a tap, and
// as many vhost devices or none. They are names of files that were passed, which it
// uses up when it succeeds, and perhaps when it does not.
func (c *Client) AddTap(ctx context.Context, id string, queues, vhost []string) error {
	return c.execute(ctx, "netdev_add", struct {
		Type  string `json:"type"`
		ID    string `json:"id"`
		FDs   string `json:"fds"`
		VHost bool   `json:"vhost"`
		VFDs  string `json:"vhostfds,omitempty"`
	}{"tap", id, strings.Join(queues, ":"), len(vhost) > 0, strings.Join(vhost, ":")}, nil)
}

// DelNetdev removes the host's side of a network card.
func (c *Client) DelNetdev(ctx context.Context, id string) error {
	return c.execute(ctx, "netdev_del", map[string]string{"id": id}, nil)
}

// AddDevice plugs in a device. arguments are encoded as an object with the members
// "driver", "id" and the driver's properties.
func (c *Client) AddDevice(ctx context.Context, arguments any) error {
	return c.execute(ctx, "device_add", arguments, nil)
}

// DelDevice asks the guest to let go of a device. That it has is told by an event:
// see DeletedDevice.
func (c *Client) DelDevice(ctx context.Context, id string) error {
	return c.execute(ctx, "device_del", map[string]string{"id": id}, nil)
}

// DeletedDevice returns the id of the device that an event says is gone, or nothing
// if the event says something else.
func DeletedDevice(e Event) string {
	var deleted struct {
		Device string `json:"device"`
	}
	if e.Name != "DEVICE_DELETED" || json.Unmarshal(e.Data, &deleted) != nil {
		return ""
	}
	return deleted.Device
}
