// Package factory makes the machines that sandboxes run in: a virtual machine,
// and the daemon that serves its file system share.
//
//	       ┌──── a template of its kind ──── cloned ──┐
//	Make ──┤                                          ├──▶ runs ──the guest answers──▶ Answered
//	       └──── none, or of no use ─────── booted ───┘
//
// A machine that had to boot has a template of its kind built once its guest has
// answered: by Build, in another process. A template of which no clone could be made,
// or whose clone does not answer (Failed), is removed. See package template.
//
// A machine is one thing: when either of its processes ends, for whatever
// reason, so does the other.
package factory
