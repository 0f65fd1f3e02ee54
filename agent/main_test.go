package agent

import (
	"os"
	"runtime"
	"testing"

	_ "github.com/hyperhq/hyper/agent/reexec"
)

// helperEnv names the part that the test binary plays when it runs itself.
const helperEnv = "HYPER_AGENT_TEST_HELPER"

func init() {
	if os.Getenv(helperEnv) != "" {
		runtime.LockOSThread() // as the agent's main does
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) == "reaper" {
		os.Exit(reaperHelper())
	}
	os.Exit(m.Run())
}
