package shim

import (
	"testing"
	"time"

	"github.com/hyperhq/hyper/config"
)

func TestBuildTime(t *testing.T) {
	for boot, want := range map[time.Duration]time.Duration{
		time.Second: 3 * time.Minute, 30 * time.Second: 3 * time.Minute, 10 * time.Minute: time.Hour,
	} {
		var c config.Config
		c.Sandbox.BootTimeout.Duration = boot
		if got := buildTime(&c); got != want {
			t.Errorf("with %v for a boot a build may take %v, want %v", boot, got, want)
		}
	}
}
