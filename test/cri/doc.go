// Package cri holds the end-to-end tests of pods: a private containerd is asked
// by the Container Runtime Interface, as a kubelet would, with CNI's plugins for
// the network and images that need no download.
//
// Each variant of the suite is a containerd and its way to make pods, on a "node" with a
// network namespace of its own: bridges, addresses and packet filter rules are never the
// machine's, and variants run at the same time.
//
// What a test asks of containers alone it asks in a pod that it shares with others, one
// after the other (node.shared): most of a test's time is the making of a machine. A test
// has a pod of its own where the pod, its machine or its end is the subject. What a test
// leaves behind is looked for after each, in a shared pod too.
//
// Every variant runs every test: in which way a container begins, ends and is told of
// differs from one containerd to the other.
//
// Every test must pass with runc ($HYPER_TEST_RUNTIME=io.containerd.runc.v2),
// but for those that are marked as only for virtual machines.
package cri
