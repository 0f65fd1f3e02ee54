// Package hyperctl is the operator's tool: it shows the sandboxes of a host, how
// each of them started and what its processes on the host use, as a table, as JSON
// and as Prometheus metrics.
//
// It only reads: the run directories of the shims, which it finds without asking
// them (one that hangs is shown too), and /proc. What it shows of a sandbox is of
// the host, the machine's overhead included; containers are measured in the guest,
// by `ctr task metrics` and by CRI.
package hyperctl
