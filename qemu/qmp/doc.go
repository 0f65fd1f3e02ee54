// Package qmp speaks QEMU's Machine Protocol, as far as Hyper needs it: typed
// commands, and events as they come.
//
//	New ──greeting, qmp_capabilities──▶ ready ──end of the connection──▶ lost (Done)
//
// A command may be given at once; it waits for the handshake, for its turn and
// for its reply, as long as its context allows. Replies are matched by id, so a
// command that was given up disturbs no other.
//
// QEMU is driven by a hostile guest, so what it says is not trusted: a line is at
// most 1 MiB, and one that is not well formed ends the connection.
package qmp
