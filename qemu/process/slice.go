package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// setSlice sets how long a thread may compute at a time while others wait for the
// processor, or with 0 has that be as usual. Its policy and its weight stay what they are.
//
// One that gives way to others by its weight is left as it is: with so little of the
// processor it would wait for seconds each time that it is woken, until all of a long slice
// were its share.
//
// Linux before 6.12 knows no such thing and heeds it not.
func setSlice(thread int, slice time.Duration) error {
	attr, err := unix.SchedGetAttr(thread, 0)
	if err != nil {
		return err
	}
	if attr.Nice > 0 && slice > 0 {
		return nil
	}
	attr.Runtime = uint64(slice.Nanoseconds())
	return unix.SchedSetAttr(thread, attr, 0)
}

// UsualSlice ends what Spec.Slice was for. To a process that has ended it does nothing.
func (p *Process) UsualSlice() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID()))
	if errors.Is(err, os.ErrNotExist) {
		return nil // it ends
	}
	for _, t := range threads {
		id, bad := strconv.Atoi(t.Name())
		if bad == nil {
			bad = setSlice(id, 0)
		}
		if !errors.Is(bad, unix.ESRCH) { // else the thread has ended
			err = errors.Join(err, bad)
		}
	}
	if err != nil {
		return fmt.Errorf("have %s (pid %d) compute for as long at a time as others: %w", p.name, p.PID(), err)
	}
	return nil
}
