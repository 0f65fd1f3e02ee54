package e2e

import (
	"testing"

	"github.com/hyperhq/hyper/test/harness"
)

// test is one test of the suite, run in every cell.
type test struct {
	name string
	run  func(t *testing.T, c *harness.Cell)
	// vm marks what only holds for a runtime with a virtual machine: it is
	// skipped when another runtime is taken to check the tests themselves.
	vm bool
	// shares marks what has its containers in a pod that tests share (lane.lend).
	shares bool
	// once marks what is about files and processes of the host alone, whichever the
	// containerd and the guest's kernel: it runs in the first cell, in others only if
	// every pair of the two is asked for.
	once bool
}

// suite is every test, in the order of the subjects.
func suite() []test {
	return []test{
		{name: "run/exit status", run: testExitStatus},
		{name: "run/exit at once", run: testExitAtOnce},
		{name: "run/exit status of execs", run: testExecExitStatus, shares: true},
		{name: "run/exit time", run: testExitTime, shares: true},
		{name: "run/own kernel", run: testOwnKernel, vm: true},
		{name: "run/missing command", run: testMissingCommand},
		{name: "run/missing path", run: testMissingPath, shares: true},
		{name: "run/several at once", run: testAtOnce},
		{name: "run/loopback", run: testLoopback},

		{name: "process/section", run: testProcess, shares: true},
		{name: "process/default capabilities", run: testDefaultCapabilities, shares: true},
		{name: "process/seccomp", run: testSeccomp, shares: true},
		{name: "process/paths and sysctls", run: testPaths},
		{name: "process/devices", run: testDevices, shares: true},
		{name: "process/namespaces", run: testNamespaces, shares: true},
		{name: "process/user namespace by ctr", run: testCtrUserNamespace},
		{name: "process/user namespace and mounts", run: testUserNamespaceMounts, shares: true},

		{name: "rootfs/use", run: testRootfs, shares: true},
		{name: "rootfs/executables", run: testExecutables},
		{name: "rootfs/is held", run: testShareIsHeld, vm: true},
		{name: "rootfs/persists", run: testRootfsPersists, shares: true},
		{name: "rootfs/read-only", run: testReadonlyRootfs, shares: true},
		{name: "rootfs/tmpfs", run: testTmpfs, shares: true},
		{name: "rootfs/bind directories", run: testBindDirectories, shares: true},
		{name: "rootfs/bind files", run: testBindFile},
		{name: "rootfs/propagation", run: testPropagation},
		{name: "rootfs/missing source", run: testMissingSource},

		{name: "virtiofsd/in Rust", run: testRustVirtiofsd, vm: true},

		{name: "rootdisk/first and second", run: testRootDiskFirst, vm: true},
		{name: "rootdisk/files", run: testRootDiskFiles, vm: true},
		{name: "rootdisk/changes", run: testRootDiskChanges, vm: true},
		{name: "rootdisk/paused", run: testRootDiskPaused, vm: true},
		{name: "rootdisk/undone", run: testRootDiskUndone, vm: true},
		{name: "rootdisk/again", run: testRootDiskAgain, vm: true},
		{name: "rootdisk/read-only", run: testRootDiskReadOnly, vm: true},
		{name: "rootdisk/full", run: testRootDiskFull, vm: true},
		{name: "rootdisk/without a share", run: testRootDiskWithoutShare, vm: true},
		{name: "rootdisk/two at once", run: testRootDiskTwo, vm: true},
		{name: "rootdisk/pod", run: testRootDiskPod, vm: true},
		{name: "rootdisk/damaged", run: testRootDiskDamaged, vm: true, once: true},
		{name: "rootdisk/killed builder", run: testRootDiskKilledBuilder, vm: true, once: true},
		{name: "rootdisk/no builder", run: testRootDiskNoBuilder, vm: true, once: true},

		{name: "disk/use", run: testDisks, shares: true},
		{name: "disk/ctr", run: testDiskCtr},
		{name: "disk/read-only", run: testDiskReadOnly, vm: true, shares: true},
		{name: "disk/again", run: testDiskAgain, vm: true, shares: true},
		{name: "disk/shared", run: testDiskShared, vm: true, shares: true},
		{name: "disk/writers", run: testDiskWriters, vm: true},
		{name: "disk/file system", run: testDiskFilesystem, vm: true, shares: true},
		{name: "disk/missing", run: testDiskMissing, vm: true},

		{name: "volumes/socket", run: testSocket, shares: true},
		{name: "volumes/socket without a server", run: testSocketWithoutServer, vm: true, shares: true},
		{name: "volumes/many connections", run: testManyConnections, shares: true},
		{name: "volumes/changed by kubelet", run: testChangedVolume, shares: true},
		{name: "volumes/many files", run: testManyFiles, shares: true},
		{name: "volumes/gone", run: testGoneVolume},

		{name: "stdio/20 MiB through cat", run: testStdin, shares: true},
		{name: "stdio/end of stdin", run: testStdinEnd, shares: true},
		{name: "stdio/CloseIO", run: testCloseIO, shares: true},
		{name: "stdio/conversation", run: testConversation, shares: true},
		{name: "stdio/exit at once", run: testFastExit, shares: true},
		{name: "stdio/100 MiB", run: testMuchOutput, shares: true},
		{name: "stdio/stalled reader", run: testStalledReader, shares: true},
		{name: "stdio/grandchild", run: testGrandchild, shares: true},
		{name: "stdio/none", run: testNoStreams},
		{name: "stdio/terminal", run: testTerminal, shares: true},
		{name: "stdio/terminal's size", run: testResize, shares: true},
		{name: "stdio/file logger", run: testFileLogger, shares: true},
		{name: "stdio/binary logger", run: testBinaryLogger, shares: true},

		{name: "exec/several at once", run: testExecsAtOnce, shares: true},
		{name: "exec/errors", run: testExecErrors},
		{name: "exec/killed at once", run: testExecKilledAtOnce, shares: true},
		{name: "exec/in a stopped container", run: testExecInStopped, shares: true},
		{name: "exec/never started", run: testNeverStarted},

		{name: "task/states", run: testStates},
		{name: "task/duplicate", run: testDuplicate, shares: true},
		{name: "task/signals", run: testSignals, shares: true},
		{name: "task/kill all", run: testKillAll, shares: true},
		{name: "task/init ends", run: testInitEnds, shares: true},
		{name: "task/pause", run: testPause, shares: true},
		{name: "task/update", run: testUpdate, vm: true, shares: true},
		{name: "task/out of memory", run: testOOM, shares: true},
		{name: "task/metrics", run: testMetrics, vm: true},
		{name: "task/metrics of a pod", run: testPodMetrics, vm: true},
		{name: "task/metrics of a disk", run: testDiskMetrics, vm: true, shares: true},
		{name: "task/metrics of a root disk", run: testRootDiskMetrics, vm: true},
		{name: "task/pids", run: testPids, shares: true},
		{name: "task/events", run: testEvents, shares: true},
		{name: "task/events of fast exits", run: testEventsOfFastExits, vm: true},
		{name: "task/waiters", run: testWaiters, shares: true},
		{name: "task/checkpoint", run: testCheckpoint, vm: true, shares: true},
		{name: "task/pod", run: testPod, vm: true},
		{name: "task/cgroup of another", run: testSharedCgroup, vm: true},
		{name: "task/unprivileged", run: testUnprivileged, vm: true},

		{name: "sandbox/life", run: testSandboxLife, vm: true},
		{name: "sandbox/machine dies", run: testSandboxDies, vm: true},
		{name: "sandbox/does not boot", run: testSandboxDoesNotBoot, vm: true},
		{name: "sandbox/removed with its containers", run: testSandboxRemoved, vm: true},
		{name: "sandbox/containerd restarts", run: testSandboxRestart, vm: true},
		{name: "sandbox/ctr", run: testSandboxCtr, vm: true},

		{name: "memory/of a clone", run: testCloneMemory, vm: true},
		{name: "memory/goes back", run: testMemoryGoesBack, vm: true},
		{name: "memory/grows with the pod", run: testPodGrows, vm: true},
		{name: "memory/grows by an update", run: testUpdateGrows, vm: true},
		{name: "memory/a neighbour out of memory", run: testNeighbourOOM, vm: true},

		{name: "processors/while it starts", run: testSlice, vm: true},
		{name: "processors/from one template", run: testTemplateProcessors, vm: true},
		{name: "processors/at the start", run: testProcessorsAtStart, vm: true},
		{name: "processors/follow the pod", run: testProcessorsFollow, vm: true},
		{name: "processors/again and again", run: testProcessorsAgain, vm: true},

		{name: "template/start", run: testTemplate, vm: true},
		{name: "template/damaged", run: testDamagedTemplate, vm: true, once: true},
		{name: "template/builder killed", run: testKilledBuilder, vm: true, once: true},
		{name: "template/a day old", run: testOldTemplate, vm: true},
		{name: "template/QEMU killed while it restores", run: testKilledClone, vm: true, once: true},
		{name: "template/shim killed while it restores", run: testKilledCloner, vm: true},
		{name: "template/no room", run: testNoRoomForTemplates, vm: true, once: true},
		{name: "template/none", run: testNoTemplates, vm: true, once: true},

		{name: "pool/in turn", run: testPoolInTurn, vm: true},
		{name: "pool/killed", run: testPoolKilled, vm: true, once: true},
		{name: "pool/idle", run: testPoolIdle, vm: true, once: true},

		{name: "hooks/run", run: testHooks},
		{name: "hooks/in the container", run: testContainerHooks, shares: true},
		{name: "hooks/refuse", run: testFailingHooks},
		{name: "hooks/refuse in the container", run: testFailingContainerHooks, shares: true},
		{name: "hooks/of a script", run: testScriptHook, vm: true},

		{name: "network/given", run: testGivenNetwork},
		{name: "network/later", run: testLaterNetwork},
		{name: "network/replaced", run: testReplacedNetwork},
		{name: "network/transfer", run: testTransfer},
		{name: "network/several queues", run: testQueues, vm: true},
		{name: "network/ctr run --cni", run: testCtrCNI},
		{name: "network/attached by hooks", run: testHookCNI},
		{name: "network/ctr run --net-host", run: testNetHost},
		{name: "network/way out dies", run: testUserNetworkDies, vm: true},
		{name: "network/metrics", run: testNetworkMetrics, vm: true},
		{name: "network/forwarded loopback", run: testForwardedLoopback},

		{name: "config/broken parts", run: testBrokenParts, vm: true},
		{name: "config/mistakes", run: testBadConfiguration, vm: true},
		{name: "config/refused sizes", run: testRefusedSizes, vm: true},
		{name: "config/sizes", run: testSizes, vm: true},
		{name: "config/microvm", run: testMicroVM, vm: true},
		{name: "config/microvm by KVM", run: testMicroVMByKVM, vm: true},

		{name: "bundle/bad specification", run: testBadSpecification},
		{name: "bundle/without containerd", run: testBadBundle, vm: true},

		{name: "ctr/run", run: testCtrRun},
		{name: "ctr/run with options", run: testCtrOptions, shares: true},
		{name: "ctr/task", run: testCtrTask},
		{name: "ctr/terminal", run: testCtrTerminal},
		{name: "ctr/terminal of execs", run: testCtrExecTerminal, shares: true},
		{name: "ctr/attach", run: testCtrAttach},
		{name: "nerdctl/use", run: testNerdctl},
		{name: "ctr/runtime info", run: testRuntimeInfo, vm: true},
		{name: "hyperctl/list and metrics", run: testHyperctl, vm: true},

		{name: "faults/killed", run: testKilled, vm: true},
		{name: "faults/hung guest", run: testHungGuest, vm: true},
		{name: "faults/killed while containerd is down", run: testKilledWhileDown, vm: true},
		{name: "faults/killed at once", run: testKilledAtOnce, vm: true},
		{name: "faults/guest panics", run: testGuestPanics, vm: true},
		{name: "faults/containerd restarts", run: testRestart},
		{name: "faults/ended while containerd is down", run: testEndWhileDown},
	}
}
