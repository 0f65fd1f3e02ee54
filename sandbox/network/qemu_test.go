package network

import (
	"context"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestQEMUTakesTheQueues gives a tap to a QEMU without any privilege: it sets them up,
// makes a card of them, and ends.
func TestQEMUTakesTheQueues(t *testing.T) {
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skipf("no QEMU is installed: %v", err)
	}
	for queues, netdev := range map[int]string{1: "fd=3", 2: "fds=3:4"} {
		pod, _ := newPod(t)
		tap := join(t, pod, "eth0", queues)
		ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
		defer cancel()
		cmd := exec.CommandContext(ctx, program,
			"-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-accel", "tcg", "-S",
			"-netdev", "tap,id=n,vhost=off,"+netdev,
			"-device", "virtio-net-pci,netdev=n,id=card,mac=02:00:00:00:00:05,mq=on,romfile=",
			"-qmp", "stdio")
		cmd.ExtraFiles = tap.Queues
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: 65534, Gid: 65534},
		}
		cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}{"execute":"quit"}`)
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("QEMU with %d queues: %v\n%s", queues, err, said)
		}
	}
}
