package qmp

import "context"

// property names one of a device's properties.
type property struct {
	Path string `json:"path"`
	Name string `json:"property"`
}

func memoryProperty(device, name string) property {
	return property{Path: "/machine/peripheral/" + device, Name: name}
}

// RequestMemory has the guest take so many bytes of a virtio-mem device, whole
// blocks of it, or give back what it has beyond them. The guest does so in its time.
func (c *Client) RequestMemory(ctx context.Context, device string, bytes uint64) error {
	return c.execute(ctx, "qom-set", struct {
		property
		Value uint64 `json:"value"`
	}{memoryProperty(device, "requested-size"), bytes}, nil)
}

// MemoryTaken is how many bytes of a virtio-mem device the guest has.
func (c *Client) MemoryTaken(ctx context.Context, device string) (bytes uint64, err error) {
	err = c.execute(ctx, "qom-get", memoryProperty(device, "size"), &bytes)
	return bytes, err
}

// AddMemory makes so many bytes of memory, for a device to hold.
func (c *Client) AddMemory(ctx context.Context, id string, bytes uint64) error {
	return c.execute(ctx, "object-add", struct {
		Type  string `json:"qom-type"`
		ID    string `json:"id"`
		Size  uint64 `json:"size"`
		Share bool   `json:"share"`
	}{"memory-backend-memfd", id, bytes, true}, nil)
}
