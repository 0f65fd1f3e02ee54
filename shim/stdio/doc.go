// Package stdio is the host's end of a process's standard input and output: it
// copies between the streams of the guest and what containerd named for them.
//
//	stdin    fifo  ──────────▶ stream        the process's EOF when the stream is closed
//	stdout   stream ─────────▶ fifo, file://, binary://, or nothing
//	stderr   stream ─────────▶ the same
//
// One goroutine per stream does nothing but copy, so that a reader who stalls
// stalls only itself. It ends with its stream or with Close, whichever is first.
//
// Output is never thrown away while someone may still read it: a fifo that has
// no reader yet holds the stream back, and its read side is kept open, so that
// a reader who leaves and comes back (containerd that restarts) finds neither
// an end nor a gap. A destination that fails for good (a full disk, a logger
// that died) is drained, so that the process does not hang on it.
//
// Stdin follows what clients of containerd rely on: the process sees EOF once
// CloseIO was called and every writer has closed the fifo. Writers that merely
// leave do not end it, since containerd may restart. One more case is an end:
// all writers have come and gone before the process was started. Then nobody
// knew yet that there was anything to call CloseIO on.
package stdio
