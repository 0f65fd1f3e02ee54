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
}

// suite is every test, in the order of the subjects.
func suite() []test {
	return []test{
		{name: "images/list", run: testImages},

		{name: "pod/status", run: testPodStatus},
		{name: "pod/stop", run: testStopPod},
		{name: "pod/twenty containers", run: testTwenty},

		{name: "container/status", run: testContainerStatus},
		{name: "container/grace period", run: testGrace},
		{name: "container/does not start", run: testStartFails},
		{name: "container/restart", run: testRestart},

		{name: "logs/streams", run: testLogs},
		{name: "logs/rotation", run: testLogRotation},

		{name: "exec/to its end", run: testExecSync},
		{name: "exec/timeout", run: testExecTimeout},
		{name: "exec/streams", run: testExecStreams},
		{name: "exec/terminal", run: testExecTerminal},
		{name: "attach/streams", run: testAttach},
		{name: "attach/stdin once", run: testAttachOnce},
		{name: "attach/terminal", run: testAttachTerminal},

		{name: "security/users", run: testUsers},
		{name: "security/strict groups", run: testStrictGroups, new: true},
		{name: "security/capabilities", run: testCapabilities},
		{name: "security/seccomp", run: testSeccomp},
		{name: "security/read-only rootfs", run: testReadonlyRootfs},
		{name: "security/no new privileges", run: testNoNewPrivileges},
		{name: "security/paths", run: testPaths},
		{name: "security/privileged", run: testPrivileged},

		{name: "namespaces/private PID", run: testPrivatePID},
		{name: "namespaces/shared PID", run: testSharedPID},
		{name: "namespaces/shared IPC", run: testSharedIPC},
		{name: "namespaces/host name", run: testHostname},
		{name: "namespaces/sysctls", run: testSysctls},
		{name: "namespaces/of the host", run: testHostNamespaces, vm: true},

		{name: "network/pod to pod", run: testPodToPod},
		{name: "network/node and pod", run: testNodeAndPod},
		{name: "network/between containers", run: testContainersShareNetwork},
		{name: "network/interface", run: testInterface},
		{name: "network/datagrams", run: testDatagrams},
		{name: "network/offloads", run: testOffloads, vm: true},
		{name: "network/heavy transfer", run: testHeavyTransfer},
		{name: "network/host port", run: testHostPort},
		{name: "network/DNS", run: testDNS},
		{name: "network/port-forward", run: testPortForward},
		{name: "network/loopback from the node", run: testPodLoopback},
		{name: "network/namespace", run: testNetworkNamespace},
		{name: "network/of the host", run: testHostNetwork},

		{name: "volumes/memory", run: testMemoryVolume},
		{name: "volumes/memory counts", run: testMemoryVolumeCounts},
		{name: "volumes/parts", run: testSubPaths},
		{name: "volumes/devices", run: testVolumeDevices},
		{name: "volumes/ConfigMap", run: testConfigMap},
		{name: "volumes/read-only", run: testReadOnlyVolumes},
		{name: "volumes/propagation", run: testPropagation},
		{name: "volumes/user namespace", run: testUserNamespace, new: true},
		{name: "volumes/gone", run: testVolumeGone},

		{name: "resources/container's statistics", run: testStats},
		{name: "resources/pod's statistics", run: testPodStats},
		{name: "resources/overhead", run: testOverhead, vm: true},
		{name: "resources/limits", run: testLimits},
		{name: "resources/processors", run: testProcessors, vm: true},
		{name: "resources/out of memory", run: testOOM},

		{name: "faults/containerd restarts", run: testContainerdRestarts},
		{name: "faults/killed", run: testKilled, vm: true},
		{name: "faults/flood of output", run: testFlood},
		{name: "faults/network's removal fails", run: testNetworkTeardownFails},
		{name: "faults/many pods", run: testMany},
	}
}
