package cri

import "testing"

// test is one test of the suite.
type test struct {
	name string
	run  func(t *testing.T, n *node)
	// vm marks what only holds for a runtime with a virtual machine: it is
	// skipped when another runtime is taken to check the tests themselves.
	vm bool
	// new marks what only containerd 2 can do.
	new bool
	// shares marks what has containers in the pod that tests share (node.shared).
	shares bool
}

// suite is every test, in the order of the subjects. Those that share a pod come last:
// others count the machines, or kill them.
func suite() []test {
	return []test{
		// In a pod of their own.
		{name: "images/list", run: testImages},
		{name: "node/as documented", run: testDocumented, vm: true, new: true},
		{name: "node/features", run: testFeatures, vm: true, new: true},

		{name: "pod/status", run: testPodStatus},
		{name: "pod/configuration", run: testPodConfiguration},
		{name: "pod/stop", run: testStopPod},
		// runc's shim leaves its sockets.
		{name: "pod/process", run: testPodProcess, vm: true},
		{name: "pod/no pause image", run: testNoPauseImage, vm: true},
		{name: "pod/twenty containers", run: testTwenty},

		{name: "security/privileged", run: testPrivileged},

		{name: "namespaces/shared PID", run: testSharedPID},
		{name: "namespaces/of the host", run: testHostNamespaces, vm: true},

		{name: "network/of the host", run: testHostNetwork},

		{name: "volumes/user namespace", run: testUserNamespace, new: true},

		{name: "resources/overhead", run: testOverhead, vm: true},
		{name: "resources/memory", run: testMemory, vm: true},
		{name: "resources/limit of the pod", run: testPodLimit, vm: true},
		{name: "resources/processors", run: testProcessors, vm: true},
		{name: "resources/huge pages", run: testHugePages, vm: true},

		{name: "faults/containerd restarts", run: testContainerdRestarts},
		{name: "faults/killed", run: testKilled, vm: true},
		{name: "faults/network's removal fails", run: testNetworkTeardownFails},
		{name: "faults/many pods", run: testMany},

		// In the pod that they share.
		{name: "container/status", run: testContainerStatus, shares: true},
		{name: "container/grace period", run: testGrace, shares: true},
		{name: "container/does not start", run: testStartFails, shares: true},
		{name: "container/restart", run: testRestart, shares: true},

		{name: "logs/streams", run: testLogs, shares: true},
		{name: "logs/rotation", run: testLogRotation, shares: true},

		{name: "exec/to its end", run: testExecSync, shares: true},
		{name: "exec/timeout", run: testExecTimeout, shares: true},
		{name: "exec/streams", run: testExecStreams, shares: true},
		{name: "exec/terminal", run: testExecTerminal, shares: true},

		{name: "attach/streams", run: testAttach, shares: true},
		{name: "attach/stdin once", run: testAttachOnce, shares: true},
		{name: "attach/terminal", run: testAttachTerminal, shares: true},

		{name: "security/users", run: testUsers, shares: true},
		{name: "security/strict groups", run: testStrictGroups, new: true, shares: true},
		{name: "security/capabilities", run: testCapabilities, shares: true},
		{name: "security/seccomp", run: testSeccomp, shares: true},
		{name: "security/read-only rootfs", run: testReadonlyRootfs, shares: true},
		{name: "security/no new privileges", run: testNoNewPrivileges, shares: true},
		{name: "security/paths", run: testPaths, shares: true},

		{name: "namespaces/private PID", run: testPrivatePID, shares: true},
		{name: "namespaces/shared IPC", run: testSharedIPC, shares: true},

		{name: "network/pod to pod", run: testPodToPod, shares: true},
		{name: "network/node and pod", run: testNodeAndPod, shares: true},
		{name: "network/between containers", run: testContainersShareNetwork, shares: true},
		{name: "network/interface", run: testInterface, shares: true},
		{name: "network/datagrams", run: testDatagrams, shares: true},
		{name: "network/offloads", run: testOffloads, vm: true, shares: true},
		{name: "network/heavy transfer", run: testHeavyTransfer, shares: true},
		{name: "network/host port", run: testHostPort, shares: true},
		{name: "network/port-forward", run: testPortForward, shares: true},
		{name: "network/loopback from the node", run: testPodLoopback, shares: true},
		{name: "network/namespace", run: testNetworkNamespace, shares: true},

		{name: "volumes/memory", run: testMemoryVolume, shares: true},
		{name: "volumes/memory counts", run: testMemoryVolumeCounts, shares: true},
		{name: "volumes/parts", run: testSubPaths, shares: true},
		{name: "volumes/devices", run: testVolumeDevices, shares: true},
		{name: "volumes/socket", run: testSocket, shares: true},
		{name: "volumes/ConfigMap", run: testConfigMap, shares: true},
		{name: "volumes/read-only", run: testReadOnlyVolumes, shares: true},
		{name: "volumes/propagation", run: testPropagation, shares: true},
		{name: "volumes/gone", run: testVolumeGone, shares: true},

		{name: "resources/container's statistics", run: testStats, shares: true},
		{name: "resources/pod's statistics", run: testPodStats, shares: true},
		{name: "resources/metrics", run: testMetrics, new: true, shares: true},
		{name: "resources/limits", run: testLimits, shares: true},
		{name: "resources/out of memory", run: testOOM, shares: true},

		{name: "faults/flood of output", run: testFlood, shares: true},
	}
}
