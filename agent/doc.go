// Package agent is the guest's side of a sandbox: PID 1 of its virtual machine.
//
// It boots the guest's userland, waits for the host on the channel, and serves
// the API of proto/hyper/agent/v1 there: containers, which the usher makes where they
// are ordinary, and libcontainer else (see jail), and one byte stream for each file
// descriptor of their processes.
//
//	boot: root moved, file systems, modules, limits
//	  │
//	  ▼            hello              session ended
//	listening ─────────────▶ serving ───────────────▶ listening …
//
// A process, be it a container's init or an exec:
//
//	          StartProcess
//	created ──────────────▶ running ──exit──▶ stopped ──DeleteProcess──▶ (gone)
//	   │                                         ▲
//	   └─────────── failed start, or killed ─────┘
//
// A failed CreateContainer or CreateProcess leaves nothing behind. A failed
// StartProcess of an exec leaves it stopped, to be deleted. What a container
// owns (processes, cgroup, mounts, streams) is released by deleting it, in the
// reverse order of its making, and deleting can be tried again after it failed.
//
// The containers of a pod share the guest's own network, IPC and UTS namespaces:
// their specs list none. What the pod has of these is set by Configure (names,
// sysctls, /dev/shm) and SetNetwork. A PID namespace is shared by naming the
// container that has it. Connections to the pod's loopback come as streams.
//
// PID 1 must not end: a panic in a request is that request's error, and what
// the agent cannot live without is logged before the machine is powered off.
//
// Three rules keep the waits for children apart. Only the goroutines of a
// forker, each on a thread that never ends, start processes. Only the main
// thread, which starts none, reaps, and then only its own children: the kernel
// gives orphans to it. All others are waited for by who started them.
package agent
