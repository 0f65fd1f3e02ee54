// Package wire is what a host in a machine, and who has booted it, say to each other:
// lines of JSON over a serial port.
package wire

// Port is the name of the serial port.
const Port = "hyper.test.host"

// Tags of the file systems that the machine is given.
const (
	// RootTag is that of the root file system of who boots it; nobody can write to it.
	RootTag = "root"
	// CheckoutTag is that of the checkout.
	CheckoutTag = "checkout"
)

// Checkout is where the checkout is in the host.
const Checkout = "/srv/hyper"

// Order asks for a command to be run, when there is none.
type Order struct {
	// Script is for bash.
	Script string `json:"script"`
}

// Word is a part of a command's answer: its output, or its end.
type Word struct {
	// Output is of both streams.
	Output []byte `json:"output,omitempty"`
	// Ready says that the host is up and that no command runs. It comes first, and after each command.
	Ready bool `json:"ready,omitempty"`
	// Status is the exit status of the command that has ended; 128 and more for a signal.
	Status int `json:"status,omitempty"`
}
