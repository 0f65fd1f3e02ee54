// Package sandboxapi is containerd's sandbox service: a pod as a thing of its
// own, without a container that stands for it.
//
// Service holds what a pod is to containerd; the sandbox behind it is the one
// in which the task service (package task) makes its containers. The methods of
// Service are tested without a server; rpc.go is the veneer that serves them.
//
//	        Create            Start               Stop, or the machine died
//	(none) ────────▶ created ────────▶ ready ────────────────────────────▶ ended
//	                    │                                                    ▲
//	                    └── Stop, or the boot failed ────────────────────────┘
//
// To containerd a sandbox is SANDBOX_READY while its machine runs and its agent
// answers, and SANDBOX_NOTREADY before and after. Whatever the state, Shutdown
// ends the sandbox, and then the shim. Until then the shim stays, though its
// last container be gone: Create takes it out of the hands of the task
// service's Shutdown, which containerd calls after each container.
//
// # How containerd calls it
//
// As of containerd 2.4 (core/runtime/v2, plugins/sandbox):
//
//   - start runs in a bundle of the sandbox's own id. Its config.json is whatever
//     specification the client gave, with or without a process; a pod of CRI has
//     none at all.
//   - Containers of the sandbox are not started: containerd copies the address
//     that start gave for the sandbox to bootstrap.json in their bundles, and
//     calls the task service there, over a connection of its own for each.
//   - delete runs for the sandbox after Shutdown was answered, and for each
//     container after its task was deleted: whenever a connection ends.
//   - CRI asks for the status before each container, for the platform once, and
//     for metrics every few seconds.
//   - Create and Start that fail are followed by Shutdown. So is a containerd's
//     end between the shim's start and Create, when somebody removes the
//     sandbox: Shutdown of one that was not created ends the shim, too.
//
// When a method fails it has changed nothing, and may be called again; but a
// machine that did not boot has ended for good.
package sandboxapi
