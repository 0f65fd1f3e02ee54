// Package factory makes the machines that sandboxes run in: a virtual machine,
// and the daemon that serves its file system share.
//
// A machine is one thing: when either of its processes ends, for whatever
// reason, so does the other.
package factory
