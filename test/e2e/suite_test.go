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
}

// suite is every test, in the order of the subjects.
func suite() []test {
	return []test{
		{name: "run/exit status", run: testExitStatus},
		{name: "run/exit at once", run: testExitAtOnce},
		{name: "run/exit status of execs", run: testExecExitStatus},
		{name: "run/exit time", run: testExitTime},
		{name: "run/own kernel", run: testOwnKernel, vm: true},
		{name: "run/missing command", run: testMissingCommand},
		{name: "run/missing path", run: testMissingPath},
		{name: "run/several at once", run: testAtOnce},
		{name: "run/loopback", run: testLoopback},

		{name: "process/section", run: testProcess},
		{name: "process/default capabilities", run: testDefaultCapabilities},
		{name: "process/seccomp", run: testSeccomp},
		{name: "process/paths and sysctls", run: testPaths},
		{name: "process/devices", run: testDevices},
		{name: "process/namespaces", run: testNamespaces},

		{name: "rootfs/use", run: testRootfs},
		{name: "rootfs/persists", run: testRootfsPersists},
		{name: "rootfs/read-only", run: testReadonlyRootfs},
		{name: "rootfs/tmpfs", run: testTmpfs},
		{name: "rootfs/bind directories", run: testBindDirectories},
		{name: "rootfs/bind files", run: testBindFile},
		{name: "rootfs/propagation", run: testPropagation},
		{name: "rootfs/missing source", run: testMissingSource},

		{name: "stdio/20 MiB through cat", run: testStdin},
		{name: "stdio/end of stdin", run: testStdinEnd},
		{name: "stdio/CloseIO", run: testCloseIO},
		{name: "stdio/conversation", run: testConversation},
		{name: "stdio/exit at once", run: testFastExit},
		{name: "stdio/100 MiB", run: testMuchOutput},
		{name: "stdio/stalled reader", run: testStalledReader},
		{name: "stdio/grandchild", run: testGrandchild},
		{name: "stdio/none", run: testNoStreams},
		{name: "stdio/terminal", run: testTerminal},
		{name: "stdio/terminal's size", run: testResize},
		{name: "stdio/file logger", run: testFileLogger},
		{name: "stdio/binary logger", run: testBinaryLogger},
	}
}
