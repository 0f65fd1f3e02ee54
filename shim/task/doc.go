// Package task is containerd's task service for one sandbox.
//
// Service holds what a task is to containerd: ids, standard streams, events and
// exits; the sandbox behind it knows about the machine. The methods of Service
// are tested without a server; rpc.go is the veneer that serves them, once for
// version 2 and once for version 3 of the API, whose messages are the same.
//
// A process, as containerd sees it:
//
//	            Start              exit seen, output drained
//	created ───────────▶ running ───────────────────────────▶ stopped ──Delete──▶ (gone)
//	   │                                                         ▲
//	   └───────── killed, deleted, or the VM died ───────────────┘
//
// Until its output is drained an exited process still counts as running: State
// says so, and Wait does not answer. The order of a process's events is create
// (exec-added), start (exec-started), exit, delete; a container's exit comes
// after those of its execs. To keep that, every process has one goroutine that
// watches it from its creation to its end and alone publishes its exit.
//
// When a method fails it has changed nothing, and may be called again.
package task
