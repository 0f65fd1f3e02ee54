// Package floor boots the least that a guest can be: the kernel that is measured,
// and a static init that says one word, by QEMU with few arguments. No agent can
// answer sooner than that word comes.
package floor

import (
	"bufio"
	"context"
	_ "embed" // the init's source
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hyperhq/hyper/guest/image"
)

//go:embed guest/init.c
var source []byte

const word = "floor"

// Floor is a guest that can be booted again and again.
type Floor struct{ kernel, image string }

// Arguments are QEMU's, beside those for the guest, its memory and its console.
type Arguments struct {
	accel, cpu, machine string
	firmware            string // QEMU's own choice if it is empty
	kernel              string // more for the kernel's command line
}

// New builds the init and its image in the directory work.
func New(ctx context.Context, work, kernel string) (*Floor, error) {
	src, program := filepath.Join(work, "floor.c"), filepath.Join(work, "floor")
	if err := os.WriteFile(src, source, 0o600); err != nil {
		return nil, err
	}
	compile := exec.CommandContext(ctx, "cc", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-O1", "-o", program, src)
	if msg, err := compile.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compiling the floor's init: %w: %s", err, msg)
	}
	file := filepath.Join(work, "floor.img")
	out, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if err := image.Build(out, image.Spec{Init: program}); err != nil {
		return nil, fmt.Errorf("building the floor's image: %w", err)
	}
	return &Floor{kernel: kernel, image: file}, out.Close()
}

// command is QEMU with this guest in a machine of 256 MiB.
func (f *Floor) command(ctx context.Context, a Arguments) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-accel", a.accel, "-cpu", a.cpu, "-m", "256M", "-machine", a.machine,
		"-kernel", f.kernel, "-initrd", f.image, "-append", "console=ttyS0 quiet panic=-1"+a.kernel,
		"-serial", "stdio")
	if a.firmware != "" {
		cmd.Args = append(cmd.Args, "-bios", a.firmware)
	}
	return cmd
}

// Boot measures from the start of QEMU to the word.
func (f *Floor) Boot(ctx context.Context, a Arguments) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := f.command(ctx, a)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting QEMU: %w", err)
	}
	took, said := time.Duration(0), []string{}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if strings.Contains(lines.Text(), word) {
			took = time.Since(begin)
			break
		}
		said = append(said, lines.Text())
	}
	cmd.Process.Kill()
	cmd.Wait()
	if took == 0 {
		return 0, fmt.Errorf("the floor's guest ended without a word: %s", strings.Join(said, "\n"))
	}
	return took, nil
}
