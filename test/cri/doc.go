// Package cri holds the end-to-end tests of pods: a private containerd is asked
// by the Container Runtime Interface, as a kubelet would, with CNI's plugins for
// the network and images that need no download.
//
// The test process gives itself a network namespace before it does anything, so
// that bridges, addresses and packet filter rules are never the machine's own.
// The "node" of the tests is that namespace.
//
// Every test must pass with runc ($HYPER_TEST_RUNTIME=io.containerd.runc.v2),
// but for those that are marked as only for virtual machines.
package cri
