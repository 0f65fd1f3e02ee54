// Package floor boots the least that a guest can be: bare QEMU arguments, the
// kernel that is measured, and a static init that says one word. No agent can
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
type Floor struct {
	kernel, image string
	accel         acceleration
}

// New builds the init and its image in the directory work. accel is "kvm" or "tcg".
func New(ctx context.Context, work, kernel, accel string) (*Floor, error) {
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
	return &Floor{kernel: kernel, image: file, accel: newAcceleration(accel)}, out.Close()
}

// Boot measures from the start of QEMU to the word.
func (f *Floor) Boot(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-accel", f.accel.accel, "-cpu", f.accel.cpu, "-m", "256M",
		"-machine", "q35,usb=off,vmport=off,smbus=off,sata=off,hpet=off,graphics=off,i8042=off",
		"-bios", "qboot.rom", "-kernel", f.kernel, "-initrd", f.image,
		"-append", "console=ttyS0 quiet panic=-1 "+f.accel.arguments,
		"-serial", "stdio")
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
