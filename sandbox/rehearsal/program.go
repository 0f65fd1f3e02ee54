package rehearsal

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// Word is what the program says.
const Word = "ready\n"

// programPath is where the program is in the image.
const programPath = "/bin/ready"

// Files is what the image of the root filesystem has: programs by path, and directories,
// which are nil.
func Files() map[string][]byte {
	files := map[string][]byte{programPath: program()}
	for _, dir := range []string{"/dev", "/etc", "/proc", "/run", "/sys", "/tmp"} {
		files[dir] = nil
	}
	return files
}

// code is write(1, Word, len(Word)) and exit(0), with Word at its end.
var code = [...]byte{
	0xb8, 1, 0, 0, 0, // mov $1, %eax
	0xbf, 1, 0, 0, 0, // mov $1, %edi
	0x48, 0x8d, 0x35, 16, 0, 0, 0, // lea 16(%rip), %rsi
	0xba, byte(len(Word)), 0, 0, 0, // mov $len(Word), %edx
	0x0f, 0x05, // syscall
	0xb8, 60, 0, 0, 0, // mov $60, %eax
	0x31, 0xff, // xor %edi, %edi
	0x0f, 0x05, // syscall
}

// program is a static program that says Word and ends.
func program() []byte {
	const base, headSize, segmentSize = 0x400000, 64, 56
	size := uint64(headSize + segmentSize + len(code) + len(Word))
	head := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: base + headSize + segmentSize,
		Phoff: headSize, Ehsize: headSize, Phentsize: segmentSize, Phnum: 1,
	}
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
		Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x1000,
	}
	var b bytes.Buffer
	for _, part := range []any{head, segment, code[:], []byte(Word)} {
		_ = binary.Write(&b, binary.LittleEndian, part) // a buffer takes all
	}
	return b.Bytes()
}
