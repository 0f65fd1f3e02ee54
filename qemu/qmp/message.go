package qmp

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hyperhq/hyper/qemu/process"
)

const (
	// maxLine bounds a message from QEMU, in bytes.
	maxLine = 1 << 20
	// maxText bounds what is quoted of QEMU's own words in an error, in bytes.
	maxText = 1 << 10
)

// Error is QEMU's answer to a command that failed.
type Error struct {
	// Command is the command's name.
	Command string
	// Class is QEMU's kind of error, such as "GenericError".
	Class string
	// Desc is its description, for a person.
	Desc string
}

// Error names the command and gives QEMU's description.
func (e *Error) Error() string {
	return fmt.Sprintf("QEMU refused %s: %s (%s)", e.Command, e.Desc, e.Class)
}

// Event is something that QEMU says unasked.
type Event struct {
	// Name is the event's name, such as "SHUTDOWN".
	Name string
	// Data is its JSON object, or nil.
	Data json.RawMessage
}

// command is what goes to QEMU.
type command struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// message is what comes from QEMU: exactly one of a greeting, an event and a
// reply, which has either a result or a failure.
type message struct {
	greeting bool
	event    *Event
	id       uint64
	result   json.RawMessage
	failure  *Error
}

// decode reads one line from QEMU.
func decode(line []byte) (message, error) {
	var raw struct {
		QMP    json.RawMessage `json:"QMP"`
		Event  string          `json:"event"`
		Data   json.RawMessage `json:"data"`
		ID     *uint64         `json:"id"`
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Class string `json:"class"`
			Desc  string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal(line, &raw); err != nil {
		return message{}, fmt.Errorf("decode QMP message: %w", err)
	}
	switch {
	case raw.QMP != nil:
		return message{greeting: true}, nil
	case raw.Event != "":
		return message{event: &Event{Name: bounded(raw.Event), Data: raw.Data}}, nil
	case raw.Error != nil:
		// An error without an id answers what QEMU could not even parse. All that
		// is sent here is well formed, so it means that the two are out of step.
		if raw.ID == nil {
			return message{}, fmt.Errorf("QMP error that answers no command: %s", bounded(raw.Error.Desc))
		}
		return message{id: *raw.ID, failure: &Error{Class: bounded(raw.Error.Class), Desc: bounded(raw.Error.Desc)}}, nil
	case raw.Return != nil:
		if raw.ID == nil {
			return message{}, errors.New("QMP reply without an id")
		}
		return message{id: *raw.ID, result: raw.Return}, nil
	default:
		return message{}, errors.New("QMP message of an unknown kind")
	}
}

// bounded returns s short and printable.
func bounded(s string) string {
	return process.Printable(s[:min(len(s), maxText)])
}
