package qmp

import (
	"context"
	"encoding/json"
	"os"
)

// States of a migration in which nothing of it follows.
const (
	MigrationCompleted = "completed"
	MigrationFailed    = "failed"
	MigrationCancelled = "cancelled"
)

// PrepareMigration has saves and restores leave out memory that is in files, and
// QEMU tell their states: see MigrationStatus.
func (c *Client) PrepareMigration(ctx context.Context) error {
	type capability struct {
		Name  string `json:"capability"`
		State bool   `json:"state"`
	}
	return c.execute(ctx, "migrate-set-capabilities", map[string][]capability{
		"capabilities": {{"x-ignore-shared", true}, {"events", true}},
	}, nil)
}

// Save begins to write the state of a stopped machine to a file, from where that
// stands.
func (c *Client) Save(ctx context.Context, state *os.File) error {
	const name = "state"
	if err := c.PassFile(ctx, name, state); err != nil {
		return err
	}
	return c.execute(ctx, "migrate", map[string]string{"uri": "fd:" + name}, nil)
}

// Restore begins to read the state of a machine from a file. QEMU must have been
// started to wait for it.
func (c *Client) Restore(ctx context.Context, state *os.File) error {
	const name = "state"
	if err := c.PassFile(ctx, name, state); err != nil {
		return err
	}
	return c.execute(ctx, "migrate-incoming", map[string]string{"uri": "fd:" + name}, nil)
}

// MigrationStatus returns the state that an event tells, or nothing if the event
// says something else.
func MigrationStatus(e Event) string {
	var m struct {
		Status string `json:"status"`
	}
	if e.Name != "MIGRATION" || json.Unmarshal(e.Data, &m) != nil {
		return ""
	}
	return bounded(m.Status)
}

// MigrationError asks why a save has failed; it may be empty.
func (c *Client) MigrationError(ctx context.Context) (string, error) {
	var info struct {
		Error string `json:"error-desc"`
	}
	err := c.execute(ctx, "query-migrate", nil, &info)
	return bounded(info.Error), err
}
