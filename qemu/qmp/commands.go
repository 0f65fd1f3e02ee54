package qmp

import "context"

// Status is what a machine does.
type Status struct {
	// Running says that its virtual CPUs run.
	Running bool `json:"running"`
	// State is QEMU's name for its run state, such as "running" or "paused".
	State string `json:"status"`
}

// QueryStatus asks what the machine does.
func (c *Client) QueryStatus(ctx context.Context) (Status, error) {
	var s Status
	if err := c.execute(ctx, "query-status", nil, &s); err != nil {
		return Status{}, err
	}
	s.State = bounded(s.State)
	return s, nil
}

// Stop stops the virtual CPUs. It may be given to a stopped machine.
func (c *Client) Stop(ctx context.Context) error {
	return c.execute(ctx, "stop", nil, nil)
}

// Cont lets the virtual CPUs run. It may be given to a running machine.
func (c *Client) Cont(ctx context.Context) error {
	return c.execute(ctx, "cont", nil, nil)
}

// Quit ends QEMU, without asking the guest.
func (c *Client) Quit(ctx context.Context) error {
	return c.execute(ctx, "quit", nil, nil)
}
