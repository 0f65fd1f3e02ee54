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
// runs as a user that nobody else has, without capabilities, in its own network,
// IPC and UTS namespaces, with its seccomp sandbox on; it can start no program.
// What it needs is opened here and handed to it as descriptors: kernel, image,
// firmware, monitor, console, channel and share. It gets no path but that of the
// acceleration device. What the guest writes to its console is kept bounded and
// shown as plain text only.
package qemu
