// Package channel is the one connection between a sandbox's host side and the
// agent in its guest: many byte streams over one byte stream.
//
// Below it is whatever the VM driver gives: a vsock connection or a virtio-serial
// port. Above it every stream is a net.Conn with its own flow control, so that a
// reader that stops reading stalls its own stream and no other.
//
//	host                                   guest
//	 │ probe (magic, version, nonce) ────▶ │   waits for a hello, discards all else
//	 │ ◀──────────────── probe, same nonce │   once it is fit for containers
//	 │ hello (magic, version, nonce) ────▶ │   waits for the next
//	 │ ◀──────────────── hello, same nonce │
//	 │ ◀═══════════ yamux session ═══════▶ │
//	 │ open stream: header (kind, id) ───▶ │   control: ttrpc; stdio: by its id
//
// The nonce makes the session this one's and no other's: a guest that was saved
// and cloned in mid-session, or bytes that were left over in the port, cannot be
// taken for its answer. When a session ends the guest waits for the next hello.
//
// Probes are for a guest that is to be saved: no session has ever run in it, so
// that none is half alive in its clones. They are left out with any other guest.
//
// Only the host opens streams. The host side treats all that it reads as hostile:
// every frame has a size bound, and the handshake a deadline.
package channel
