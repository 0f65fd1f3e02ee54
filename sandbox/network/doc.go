// Package network is the host's side of a sandbox's network: what its network
// namespace has, and the taps that carry its links' frames to the guest.
//
//	       pod's network namespace                       guest
//	      ┌───────────────────────────────────┐
//	CNI ──┤ eth0 ─ingress─ redirect ─▶ hyper2 ├── QEMU ── eth0
//	      │   ◀─ redirect ─ingress─ ─ ─ ┘     │
//	      └───────────────────────────────────┘
//
// A link and its tap are joined at their ingress, where a frame is taken before
// the namespace's own stack sees it: the addresses stay on the link, and only the
// guest answers to them.
//
// What a call leaves behind when it fails: nothing. Every request to the kernel
// has a deadline. Threads that enter the namespace never come back from it: they
// end.
package network
