// Package kube holds the end-to-end test of a whole Kubernetes: etcd, an API server and a
// kubelet, real ones, on a private containerd whose runtime is asked for by the
// RuntimeClass that README.md has.
//
// There is no scheduler: pods name their node. Nor are there controllers or a proxy of
// services, which know nothing of runtimes.
//
// `make kubernetes` builds the programs; without them the test is skipped. What kubelet
// has no flag for to put elsewhere (/var/log/pods, /var/lib/kubelet, the kernel's
// parameters that it sets) it finds in a mount namespace of the test's own: see TestMain.
package kube
