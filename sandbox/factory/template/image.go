package template

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrDamaged says that a stored file is not what was written.
var ErrDamaged = errors.New("the template is damaged")

const (
	pageSize = 4 << 10
	// maxRun is how many pages are copied, and have a checksum, together.
	maxRun = 256
	// maxMemory and maxState bound what a file may say of itself, in bytes.
	maxMemory = 16 << 40
	maxState  = 64 << 20

	headSize = 48
	runSize  = 12
)

// magic is what a file begins with. Its last byte is the format's version.
const magic = "HYPERTM\x01"

// A file is its head, the table of runs, the devices' state, and the pages of all
// runs. Numbers are little endian. Pages of zeros are in no run.
//
// The head: magic (8), the memory's size in bytes (8), the number of runs (4), the
// state's size in bytes (4) and checksum (4), the checksum of the table (4), zeros
// (12), and the checksum of all that (4). Checksums are CRC-32C, which a processor
// reckons faster than it copies.
type head struct {
	memory           uint64
	runs, state      uint32
	stateSum, runSum uint32
}

// run is pages of the memory that follow each other: the first, their number, and
// the checksum of what they hold.
type run struct{ page, pages, sum uint32 }

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func (h head) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, headSize)
	copy(b, magic)
	le.PutUint64(b[8:], h.memory)
	le.PutUint32(b[16:], h.runs)
	le.PutUint32(b[20:], h.state)
	le.PutUint32(b[24:], h.stateSum)
	le.PutUint32(b[28:], h.runSum)
	le.PutUint32(b[headSize-4:], crc32.Checksum(b[:headSize-4], castagnoli()))
	return b
}

func decodeHead(b []byte) (head, error) {
	le := binary.LittleEndian
	if len(b) < headSize || string(b[:8]) != magic || le.Uint32(b[headSize-4:]) != crc32.Checksum(b[:headSize-4], castagnoli()) {
		return head{}, fmt.Errorf("%w: it has no head", ErrDamaged)
	}
	h := head{memory: le.Uint64(b[8:]), runs: le.Uint32(b[16:]), state: le.Uint32(b[20:]), stateSum: le.Uint32(b[24:]), runSum: le.Uint32(b[28:])}
	if h.memory == 0 || h.memory%pageSize != 0 || h.memory > maxMemory || h.state > maxState || uint64(h.runs) > h.memory/pageSize {
		return head{}, fmt.Errorf("%w: its head says what cannot be", ErrDamaged)
	}
	return h, nil
}

func encodeRuns(runs []run) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, len(runs)*runSize)
	for _, r := range runs {
		b = le.AppendUint32(le.AppendUint32(le.AppendUint32(b, r.page), r.pages), r.sum)
	}
	return b
}

// decodeRuns reads the table, whose runs must be in order and within the memory.
func decodeRuns(b []byte, h head) (runs []run, pages uint64, err error) {
	le := binary.LittleEndian
	if crc32.Checksum(b, castagnoli()) != h.runSum {
		return nil, 0, fmt.Errorf("%w: its table is not what was written", ErrDamaged)
	}
	var next uint64
	for ; len(b) >= runSize; b = b[runSize:] {
		r := run{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:])}
		end := uint64(r.page) + uint64(r.pages)
		if uint64(r.page) < next || r.pages == 0 || r.pages > maxRun || end > h.memory/pageSize {
			return nil, 0, fmt.Errorf("%w: its table says what cannot be", ErrDamaged)
		}
		next = end
		pages += uint64(r.pages)
		runs = append(runs, r)
	}
	return runs, pages, nil
}

// Image is a stored machine. Its file is open, and stays what it is.
type Image struct {
	file *os.File
	info os.FileInfo // of the file
	key  string
	head head
	runs []run
}

// openImage opens a file and reads what it says of itself.
func openImage(path, key string) (_ *Image, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, headSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	h, err := decodeHead(b)
	if err != nil {
		return nil, err
	}
	// Before so much is made room for.
	if at := h.stateAt() + int64(h.state); info.Size() < at {
		return nil, fmt.Errorf("%w: it is cut off", ErrDamaged)
	}
	table := make([]byte, int(h.runs)*runSize)
	if _, err := f.ReadAt(table, headSize); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	runs, pages, err := decodeRuns(table, h)
	if err != nil {
		return nil, err
	}
	if want := uint64(h.stateAt()) + uint64(h.state) + pages*pageSize; uint64(info.Size()) != want {
		return nil, fmt.Errorf("%w: it has %d bytes, not %d", ErrDamaged, info.Size(), want)
	}
	return &Image{file: f, info: info, key: key, head: h, runs: runs}, nil
}

func (h head) stateAt() int64 { return headSize + int64(h.runs)*runSize }

// Close releases the image. What was made of it stays.
func (im *Image) Close() error { return im.file.Close() }

// Key is what the image is stored by.
func (im *Image) Key() string { return im.key }

// MemorySize is the size of the guest's memory in bytes.
func (im *Image) MemorySize() int64 { return int64(im.head.memory) }

// State returns the state of the machine's devices as a file in memory that stands
// at its beginning. It is the caller's.
func (im *Image) State() (*os.File, error) {
	b := make([]byte, im.head.state)
	if _, err := im.file.ReadAt(b, im.head.stateAt()); err != nil {
		return nil, fmt.Errorf("read a template: %w", err)
	}
	if crc32.Checksum(b, castagnoli()) != im.head.stateSum {
		return nil, fmt.Errorf("%w: its state is not what was written", ErrDamaged)
	}
	f, err := newMemoryFile("state", int64(len(b)))
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("make a copy of a template's state: %w", err)
	}
	return f, nil
}

// Fill writes the guest's memory into a file of its size that holds nothing yet.
func (im *Image) Fill(memory *os.File) error {
	at := im.head.stateAt() + int64(im.head.state)
	buf, crc := make([]byte, maxRun*pageSize), castagnoli()
	for _, r := range im.runs {
		b := buf[:int(r.pages)*pageSize]
		if _, err := im.file.ReadAt(b, at); err != nil {
			return fmt.Errorf("read a template: %w", err)
		}
		if crc32.Checksum(b, crc) != r.sum {
			return fmt.Errorf("%w: its memory at page %d is not what was written", ErrDamaged, r.page)
		}
		if _, err := memory.WriteAt(b, int64(r.page)*pageSize); err != nil {
			return fmt.Errorf("copy a template's memory: %w", err)
		}
		at += int64(len(b))
	}
	return nil
}

// NewMemory makes a file in memory of this size, of zeros, for the memory of a
// template or a clone: any user who has it can write to it.
func NewMemory(bytes int64) (*os.File, error) { return newMemoryFile("memory", bytes) }

func newMemoryFile(name string, bytes int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(bytes); err != nil {
		f.Close()
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	return f, nil
}

// writeImage writes a saved machine to a new file.
func writeImage(out *os.File, memory, state *os.File) error {
	devices, err := io.ReadAll(io.NewSectionReader(state, 0, maxState+1))
	if err != nil {
		return err
	}
	if len(devices) > maxState {
		return fmt.Errorf("the state of the machine's devices has more than %d bytes", maxState)
	}
	info, err := memory.Stat()
	if err != nil {
		return err
	}
	runs, err := findRuns(memory, info.Size())
	if err != nil {
		return err
	}
	table := encodeRuns(runs)
	h := head{
		memory: uint64(info.Size()), runs: uint32(len(runs)), state: uint32(len(devices)),
		stateSum: crc32.Checksum(devices, castagnoli()), runSum: crc32.Checksum(table, castagnoli()),
	}
	for _, part := range [][]byte{h.encode(), table, devices} {
		if _, err := out.Write(part); err != nil {
			return err
		}
	}
	buf := make([]byte, maxRun*pageSize)
	for _, r := range runs {
		b := buf[:int(r.pages)*pageSize]
		if _, err := memory.ReadAt(b, int64(r.page)*pageSize); err != nil {
			return err
		}
		if _, err := out.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// findRuns finds the pages that are not all zeros.
func findRuns(memory *os.File, size int64) ([]run, error) {
	var runs []run
	buf := make([]byte, maxRun*pageSize)
	for at := int64(0); at < size; {
		begin, err := unix.Seek(int(memory.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only holes are left
		}
		if err != nil {
			return nil, err
		}
		at = begin / pageSize * pageSize
		b := buf[:min(int64(len(buf)), size-at)]
		if _, err := memory.ReadAt(b, at); err != nil {
			return nil, err
		}
		runs = appendRuns(runs, uint32(at/pageSize), b)
		at += int64(len(b))
	}
	return runs, nil
}

func appendRuns(runs []run, first uint32, b []byte) []run {
	zeros, crc := make([]byte, pageSize), castagnoli()
	empty := func(i int) bool { return string(b[i:i+pageSize]) == string(zeros) }
	for i := 0; i < len(b); {
		if empty(i) {
			i += pageSize
			continue
		}
		end := i + pageSize
		for end < len(b) && !empty(end) {
			end += pageSize
		}
		runs = append(runs, run{first + uint32(i/pageSize), uint32((end - i) / pageSize), crc32.Checksum(b[i:end], crc)})
		i = end
	}
	return runs
}
