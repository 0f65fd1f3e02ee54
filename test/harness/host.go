package harness

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// Host stands for a host to the commands that run in it: it has a network of its
// own and, but for those of NewNetworkHost, what it changes in /etc, /opt and /var/lib
// nobody else sees. Everything else is the machine's, containerd too.
type Host struct {
	// NetNS is its network, in which at first nothing but a loopback is.
	NetNS *NetNS
	pid   int // of who has its mounts, or 0
}

// NewNetworkHost makes a host that has nothing of its own but its network, and goes
// with the test.
func NewNetworkHost(t T) *Host {
	t.Helper()
	return &Host{NetNS: NewNetNS(t)}
}

// holdHost makes the directories' private copies, says so, and keeps them until
// its standard input ends.
const holdHost = `set -e
mount --make-rprivate /
mount -t tmpfs none /mnt
for dir in /etc /opt /var/lib; do
	mkdir -p /mnt/upper$dir /mnt/work$dir
	mount -t overlay -o lowerdir=$dir,upperdir=/mnt/upper$dir,workdir=/mnt/work$dir none $dir
done
echo ready
read -r _ || exit 0`

// NewHost makes a host that goes with the test. This cell's containerd does not
// run in it: see In.
func (c *Cell) NewHost(t T) *Host {
	t.Helper()
	h := &Host{NetNS: NewNetNS(t)}
	cmd := h.NetNS.command(context.Background(), "unshare", "--mount", "sh", "-c", holdHost)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatalf("making a host: %v", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("making a host: %v", err)
	}
	var words strings.Builder
	cmd.Stderr = &words
	if err := c.reaper.Start(cmd); err != nil {
		t.Fatalf("making a host: %v", err)
	}
	t.Cleanup(func() {
		stdin.Close()
		c.reaper.Wait(cmd)
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("making a host: %v: %s", err, words.String())
	}
	h.pid = cmd.Process.Pid
	return h
}

// In starts another cell like this one, whose containerd and all that it starts
// are in the host. It ends with the test.
func (c *Cell) In(t T, h *Host) *Cell {
	t.Helper()
	options := c.options
	options.Host = h
	inside, err := NewCell(t.Context(), options)
	if err != nil {
		t.Fatalf("starting a containerd in a host: %v", err)
	}
	t.Cleanup(func() {
		if err := inside.Close(); err != nil {
			t.Fatalf("ending the containerd of a host: %v", err)
		}
	})
	return inside
}

// Shell runs a script in the host.
func (h *Host) Shell(ctx context.Context, c *Cell, script string, args ...string) error {
	var out strings.Builder
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-euc", script, "sh"}, args...)...)
	h.Enter(cmd)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := c.reaper.Run(cmd); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out.String())
	}
	return nil
}

// Enter makes a command, which has not begun, one that runs in the host.
func (h *Host) Enter(cmd *exec.Cmd) {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		cmd.Err = err
		return
	}
	args := []string{nsenter, "--net=" + h.NetNS.Path()}
	if h.pid != 0 {
		args = append(args, fmt.Sprintf("--mount=/proc/%d/ns/mnt", h.pid))
	}
	cmd.Args = slices.Concat(args, []string{"--", cmd.Path}, cmd.Args[1:])
	cmd.Path = nsenter
}

// command is a command that runs in the namespace.
func (n *NetNS) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + n.Path(), "--", name}, args...)...)
	return cmd
}
