// Package shim is containerd's side of Hyper: the binary that containerd runs
// as io.containerd.hyper.v2.
//
// One binary is several programs, by its last argument:
//
//	start    in a bundle: joins or starts the pod's server, prints its address
//	(none)   the server: task and sandbox service of one sandbox (packages task
//	         and sandboxapi)
//	delete   cleans up after a container or sandbox, whatever state its server
//	         is in
//	park     a server that has no pod yet, with a machine: see below
//	build-…  what is built for later pods: templates, images of layers
//	-info    what this runtime can do; -v, which version this is
//
// # Start
//
// containerd has asked in three ways over time, and the answer follows the
// question (bootstrap.go). Containers with the same group annotation share a
// server: its socket's address is a function of the group, and whoever binds it
// first starts the server, under a lock on the socket's directory. A sandbox of
// the sandbox API has a start as well, in a bundle of its own that may have no
// configuration; its containers then have none.
//
// The server is started into a mount namespace of its own. Its first act is to
// make all mounts slaves: what is mounted on the host later still arrives (the
// snapshotter's mounts do), and nothing that the sandbox mounts ever appears on
// the host or outlives its processes.
//
// # Park
//
// A server that has started a container takes note of it in the pool (package pool),
// and has another process parked if there should be one: it makes a machine and waits.
// start claims it instead of starting a server: it makes the run directory, hands the
// socket over, records the process, and then lets it act, as a new server. Whatever
// fails before that, a new server is started.
//
// # Run directory
//
// A server has a directory under /run/hyper (or $HYPER_RUN_DIR):
//
//	shim.pid     "<pid> <start time> shim": the server, written before it acts
//	address      the address of its socket
//	closing      exists once it has begun to end
//	sandbox/     the sandbox's own
//	sandbox/pids one line "<pid> <start time in clock ticks> <name>" for each
//	             process of the sandbox
//
// It is not in the bundle because a pod outlives the bundle of its first
// container, and because a socket's path must be short. Its name begins with a
// hash of the socket's address, which is how the pod's other containers find it.
//
// # Why not containerd's own library for shims
//
// containerd/v2/pkg/shim of 2.4 serves containerd 2.3 and later only. Its server
// would do for all, but its publisher tries events that failed again beside
// those that follow, which then overtake them, and its log can stall the shim
// when containerd does not read it. Ours is a server, a queue and a fifo.
//
// # Delete
//
// containerd runs delete after every task it removes, and when it has lost a
// server. A server that answers is asked to remove that one container and then
// to end, which it does if no other lives. Delete of a sandbox ends its server
// whoever lives in it. One that does not answer is killed, but not one that is slow to remove
// a container that others live beside.
// What a dead server left (processes, socket, directory) is removed; its mounts
// went with its namespace.
package shim
