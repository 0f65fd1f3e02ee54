package cri

import "testing"

// test is one test of the suite.
type test struct {
	name string
	run  func(t *testing.T, n *node)
	// vm marks what only holds for a runtime with a virtual machine: it is
	// skipped when another runtime is taken to check the tests themselves.
	vm bool
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

		{name: "resources/container's statistics", run: testStats},
		{name: "resources/pod's statistics", run: testPodStats},
		{name: "resources/limits", run: testLimits},
		{name: "resources/out of memory", run: testOOM},

		{name: "faults/containerd restarts", run: testContainerdRestarts},
	}
}
