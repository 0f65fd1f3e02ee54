package qmp

import (
	"context"
	"fmt"
	"os"
)

// FileSet is the number of a set of files in QEMU.
type FileSet uint64

// path is what QEMU opens such a file by.
func (s FileSet) path() string { return fmt.Sprintf("/dev/fdset/%d", s) }

// AddFile hands an open file to QEMU, which keeps it in a set that has no other
// until RemoveFile. The file stays the caller's, to be closed once AddFile has
// returned. The connection must be a unix socket.
func (c *Client) AddFile(ctx context.Context, set FileSet, file *os.File) error {
	return c.executeWith(ctx, "add-fd", map[string]FileSet{"fdset-id": set}, file, nil)
}

// RemoveFile closes a file that QEMU keeps, once nothing uses it. QEMU refuses it if
// there is none.
func (c *Client) RemoveFile(ctx context.Context, set FileSet) error {
	return c.execute(ctx, "remove-fd", map[string]FileSet{"fdset-id": set}, nil)
}

// Block is the host's side of a disk.
type Block struct {
	// Node is its name.
	Node string
	// Files is the set that holds its file.
	Files FileSet
	// Device says that the file is a block device, not a regular one.
	Device bool
	// ReadOnly says that nothing is written to it.
	ReadOnly bool
}

// AddBlock makes the host's side of a disk.
func (c *Client) AddBlock(ctx context.Context, b Block) error {
	type file struct {
		Driver string `json:"driver"`
		Name   string `json:"filename"`
	}
	f := file{"file", b.Files.path()}
	if b.Device {
		f.Driver = "host_device"
	}
	return c.execute(ctx, "blockdev-add", struct {
		Node     string `json:"node-name"`
		Driver   string `json:"driver"`
		ReadOnly bool   `json:"read-only"`
		Discard  string `json:"discard"`
		File     file   `json:"file"`
	}{b.Node, "raw", b.ReadOnly, "unmap", f}, nil)
}

// BlockFile is the file of a block that was made with another.
type BlockFile struct {
	// Node is the name of the file, which is a node of its own.
	Node string
	// Files, Device and ReadOnly are as in Block.
	Files            FileSet
	Device, ReadOnly bool
}

// ReplaceFile gives the block of a name another file, as a device that uses it need not
// notice. What the block had before stays.
func (c *Client) ReplaceFile(ctx context.Context, block string, f BlockFile) error {
	driver := "file"
	if f.Device {
		driver = "host_device"
	}
	err := c.execute(ctx, "blockdev-add", struct {
		Node     string `json:"node-name"`
		Driver   string `json:"driver"`
		Name     string `json:"filename"`
		ReadOnly bool   `json:"read-only"`
		Discard  string `json:"discard"`
	}{f.Node, driver, f.Files.path(), f.ReadOnly, "unmap"}, nil)
	if err != nil {
		return err
	}
	type options struct {
		Node     string `json:"node-name"`
		Driver   string `json:"driver"`
		ReadOnly bool   `json:"read-only"`
		Discard  string `json:"discard"`
		File     string `json:"file"`
	}
	return c.execute(ctx, "blockdev-reopen", map[string][]options{
		"options": {{block, "raw", f.ReadOnly, "unmap", f.Node}},
	}, nil)
}

// DelBlock removes the host's side of a disk. QEMU refuses it while a device uses it,
// and if there is none.
func (c *Client) DelBlock(ctx context.Context, node string) error {
	return c.execute(ctx, "blockdev-del", map[string]string{"node-name": node}, nil)
}
