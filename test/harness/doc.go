// Package harness runs a private containerd, and containers in it, for the
// end-to-end tests, the benchmark and the demonstration.
//
// Everything that a Cell makes is under one directory, /tmp/hyper-test-<pid>-<n>:
// containerd's root, state, sockets, temporary files, logs and configuration.
// A cell with CRI also has files of CNI in /var/lib/cni/results, which name it.
// The system's daemons and their files are never touched, and processes are
// ended only if they are descendants of this one.
//
// A cell has templates of its own or in common with others, or with
// $HYPER_TEST_TEMPLATES=off none. What builds them outlives the container that wanted
// one, and is not taken for a leak.
//
// This process becomes the reaper of its orphaned descendants (see prctl(2),
// PR_SET_CHILD_SUBREAPER), so that a shim that has left its parent, and all that
// a shim leaves behind, is still found below it. That is what the leak check
// builds on: see Snapshot.
//
// A run that was killed cannot clean up. Its directory names its owner, and the
// next run, finding the owner gone, removes what is left: see RemoveStale.
package harness
