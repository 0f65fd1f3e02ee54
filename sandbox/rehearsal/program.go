package rehearsal

import (
	"bytes"
	"debug/elf"
	"encoding/binary"

	"golang.org/x/sys/unix"
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

// The program is static, of a text that is read in more than one piece, and of data that it
// writes to, more than there is in the file. Where what is, as code knows:
const (
	textAddress  = 0x400000
	callsAddress = 0x401000
	dataAddress  = 0x450000
	dataInFile   = 0x2000
	dataSize     = 0x4000
	fixedAddress = 0x10000000 // of what it maps

	headSize, segmentSize = 64, 56
	codeOffset            = headSize + 2*segmentSize
)

// code enlarges the heap, comes by each page of text and data, and makes calls until one
// ends it.
var code = [...]byte{
	0xb8, unix.SYS_BRK, 0, 0, 0, // mov $SYS_brk, %eax
	0x31, 0xff, // xor %edi, %edi
	0x0f, 0x05, // syscall
	0x48, 0x89, 0xc3, // mov %rax, %rbx
	0x48, 0x8d, 0xb8, 0x00, 0x10, 0x02, 0x00, // lea 0x21000(%rax), %rdi
	0xb8, unix.SYS_BRK, 0, 0, 0, // mov $SYS_brk, %eax
	0x0f, 0x05, // syscall
	0xfe, 0x03, // incb (%rbx)
	0xbe, 0x00, 0x00, 0x40, 0x00, // mov $textAddress, %esi
	0x8a, 0x06, // mov (%rsi), %al
	0x81, 0xc6, 0x00, 0x10, 0x00, 0x00, // add $0x1000, %esi
	0x81, 0xfe, 0x00, 0x00, 0x45, 0x00, // cmp $dataAddress, %esi
	0x75, 0xf0, // jne to the mov
	0xfe, 0x06, // incb (%rsi)
	0x81, 0xc6, 0x00, 0x10, 0x00, 0x00, // add $0x1000, %esi
	0x81, 0xfe, 0x00, 0x40, 0x45, 0x00, // cmp $(dataAddress + dataSize), %esi
	0x75, 0xf0, // jne to the incb
	0xbb, 0x00, 0x10, 0x40, 0x00, // mov $callsAddress, %ebx
	0x48, 0x8b, 0x03, // mov (%rbx), %rax
	0x48, 0x8b, 0x7b, 0x08, // mov 8(%rbx), %rdi
	0x48, 0x8b, 0x73, 0x10, // mov 16(%rbx), %rsi
	0x48, 0x8b, 0x53, 0x18, // mov 24(%rbx), %rdx
	0x4c, 0x8b, 0x53, 0x20, // mov 32(%rbx), %r10
	0x4c, 0x8b, 0x43, 0x28, // mov 40(%rbx), %r8
	0x45, 0x31, 0xc9, // xor %r9d, %r9d
	0x0f, 0x05, // syscall
	0x48, 0x83, 0xc3, 0x30, // add $48, %rbx
	0xeb, 0xde, // jmp to the first mov of these
}

// call is a system call: its number, and five arguments.
type call [6]uint64

// calls are those that programs begin and end with, be they linked statically or not,
// and what they say. That some fail is as good.
func calls() []call {
	const (
		first  = 3 // the first file that is opened
		archFS = 0x1002
		// Addresses of the program's own.
		path, word, scratch = callsAddress - 0x100, callsAddress - 0x80, dataAddress + 0x3000
	)
	return []call{
		{unix.SYS_ARCH_PRCTL, archFS, scratch},
		{unix.SYS_SET_TID_ADDRESS, scratch},
		{unix.SYS_SET_ROBUST_LIST, scratch, 24},
		{unix.SYS_RSEQ, scratch + 0x100, 32, 0, 0x53053053},
		{unix.SYS_PRLIMIT64, 0, unix.RLIMIT_STACK, 0, scratch},
		{unix.SYS_READLINK, path, scratch, 256},
		{unix.SYS_GETRANDOM, scratch, 8, unix.GRND_NONBLOCK},
		{unix.SYS_ACCESS, path, unix.R_OK},
		{unix.SYS_OPENAT, ^uint64(99), path, unix.O_RDONLY | unix.O_CLOEXEC}, // AT_FDCWD is -100
		{unix.SYS_READ, first, scratch + 0x400, 832},
		{unix.SYS_NEWFSTATAT, first, word + uint64(len(Word)), scratch, unix.AT_EMPTY_PATH},
		{unix.SYS_MMAP, fixedAddress, 0x8000, unix.PROT_READ | unix.PROT_EXEC, unix.MAP_PRIVATE | unix.MAP_FIXED, first},
		{unix.SYS_MMAP, fixedAddress + 0x8000, 0x4000, unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_FIXED | unix.MAP_ANONYMOUS},
		{unix.SYS_CLOSE, first},
		{unix.SYS_MPROTECT, fixedAddress + 0x8000, 0x1000, unix.PROT_READ},
		{unix.SYS_MUNMAP, fixedAddress, 0x8000},
		{unix.SYS_MPROTECT, dataAddress, 0x1000, unix.PROT_READ},
		{unix.SYS_RT_SIGACTION, uint64(unix.SIGINT), 0, scratch, 8},
		{unix.SYS_PRCTL, unix.PR_GET_NAME, scratch},
		{unix.SYS_GETUID},
		{unix.SYS_WRITE, 1, word, uint64(len(Word))},
		{unix.SYS_EXIT_GROUP},
	}
}

// text is the program's file as far as it is only read, but for its head.
func text() []byte {
	t := make([]byte, dataAddress-textAddress)
	put := func(address uint64, content any) {
		// It fits, and is of a fixed size.
		_, _ = binary.Encode(t[address-textAddress:], binary.LittleEndian, content)
	}
	put(textAddress+codeOffset, code)
	put(callsAddress-0x100, []byte(programPath))
	put(callsAddress-0x80, []byte(Word))
	put(callsAddress, calls())
	return t
}

// program is the program's file.
func program() []byte {
	head := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: textAddress + codeOffset,
		Phoff: headSize, Ehsize: headSize, Phentsize: segmentSize, Phnum: 2,
	}
	segments := [2]elf.Prog64{{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
		Vaddr: textAddress, Paddr: textAddress, Filesz: dataAddress - textAddress, Memsz: dataAddress - textAddress, Align: 0x1000,
	}, {
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Off: dataAddress - textAddress,
		Vaddr: dataAddress, Paddr: dataAddress, Filesz: dataInFile, Memsz: dataSize, Align: 0x1000,
	}}
	var b bytes.Buffer
	for _, part := range []any{head, segments} {
		_ = binary.Write(&b, binary.LittleEndian, part) // a buffer takes all
	}
	b.Write(text()[b.Len():])
	b.Write(make([]byte, dataInFile))
	return b.Bytes()
}
