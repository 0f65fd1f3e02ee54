// Package qemu is the QEMU driver: it runs each virtual machine as one
// unprivileged QEMU process and implements virtcontainers.Hypervisor and VM.
//
//	Start ──exec──▶ running ──guest ends, QEMU dies, Kill──▶ gone (Done)
//
// Start returns once QEMU's program runs; monitor, firmware and guest come up
// meanwhile. When it fails nothing is left behind. Kill returns when the process
// is gone and all that was taken for it is released; both Kill and the death of
// QEMU for any other reason close Done, within milliseconds and without polling.
//
// The guest is hostile, and QEMU with it once a hole in QEMU is found. So QEMU
// runs as a user that nobody else has, without capabilities, in IPC and UTS
// namespaces of its own and a network namespace of its own or of its pod, with its
// seccomp sandbox on; it can start no program.
// What it needs is opened here and handed to it as descriptors: kernel, image,
// firmware, monitor, console, channel and share. It gets no path but that of the
// acceleration device. What the guest writes to its console is kept bounded and
// shown as plain text only.
//
// Network cards and disks are plugged in while the guest runs, on a bus of 31 slots:
//
//	Attach ──▶ in ──Detach, the guest lets go──▶ released
//
// An attach that fails leaves nothing behind, unless its error says that it could not
// be undone: then, and after a detach that fails, the id stays taken until a detach
// succeeds. A guest that lets go of a device by itself changes nothing of that. The
// guest can delay a detach until its context ends, and no more.
//
// A machine can be saved, and others go on where it was:
//
//	StartTemplate ──▶ boots ──Save──▶ stopped for good ──Kill──▶ gone
//	StartClone ──▶ reads the state ──▶ is given its share ──▶ runs on
//
// A template's devices are those that every clone has; what differs is plugged in, or
// put into places that the template has for disks:
//
//	vacant ──Attach──▶ in ──Detach, the guest lets go──▶ no place any more
//
// QEMU writes to the memory that it is handed: so memory that clones have in common
// must be sealed by who hands it to them. A Save that fails leaves a machine that is
// good for nothing but to be killed; a StartClone that fails leaves nothing.
//
// Memory is added and asked back while the guest runs, one request at a time: the
// last counts. When growing fails its request stands until the next.
package qemu
