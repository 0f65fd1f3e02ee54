package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Process is a process of the host as /proc shows it.
type Process struct {
	PID, Parent int
	State       string // one letter: see proc(5)
	Start       uint64 // clock ticks since the host's boot; with PID it is unique
	Args        []string
	Exe         string // empty for a zombie
}

func (p Process) String() string {
	what := strings.Join(p.Args, " ")
	if what == "" {
		what = "(" + p.State + ")"
	}
	if len(what) > 160 {
		what = what[:160] + "…"
	}
	return fmt.Sprintf("%d %s", p.PID, what)
}

// Zombie says that the process has ended and waits to be reaped.
func (p Process) Zombie() bool { return p.State == "Z" || p.State == "X" }

// processes lists the host's processes. One that ends meanwhile may be missing.
func processes() map[int]Process {
	all := ancestry()
	for pid, p := range all {
		p.describe()
		all[pid] = p
	}
	return all
}

// family lists what is below the process pid, nearest first, and is also the host's
// processes, of which the others have no Args and no Exe: to read these takes most of the
// time of a look.
func family(pid int) (below []Process, all map[int]Process) {
	all = ancestry()
	below = descendants(all, pid)
	for i := range below {
		below[i].describe()
		all[below[i].PID] = below[i]
	}
	return below, all
}

// ancestry lists the host's processes without Args and Exe.
func ancestry() map[int]Process {
	all := map[int]Process{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if p, ok := readStat(pid); ok {
			all[pid] = p
		}
	}
	return all
}

func readProcess(pid int) (Process, bool) {
	p, ok := readStat(pid)
	if ok {
		p.describe()
	}
	return p, ok
}

// describe reads the process's Args and Exe.
func (p *Process) describe() {
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
	p.Args = strings.FieldsFunc(string(cmdline), func(r rune) bool { return r == 0 })
	p.Exe, _ = os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID))
}

func readStat(pid int) (Process, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, false
	}
	// The name may hold anything, a parenthesis too.
	i := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[i+1:]))
	if i < 0 || len(fields) < 20 {
		return Process{}, false
	}
	p := Process{PID: pid, State: fields[0]}
	p.Parent, _ = strconv.Atoi(fields[1])
	p.Start, _ = strconv.ParseUint(fields[19], 10, 64)
	return p, true
}

// descendants lists what is below the process pid, nearest first.
func descendants(all map[int]Process, pid int) []Process {
	children := map[int][]int{}
	for _, p := range all {
		children[p.Parent] = append(children[p.Parent], p.PID)
	}
	var found []Process
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		below := children[queue[0]]
		slices.Sort(below)
		for _, child := range below {
			found = append(found, all[child])
		}
		queue = append(queue, below...)
	}
	return found
}

// Reaper reaps orphans that fall to this process. A process that this one
// starts must be started through it, so that the two do not take each other's
// exits.
type Reaper struct {
	mu      sync.Mutex
	own     map[int]bool
	signals chan os.Signal
	done    chan struct{}
}

// NewReaper makes this process the reaper of its descendants until Close.
func NewReaper() (*Reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("becoming the reaper of orphans: %w", err)
	}
	r := &Reaper{own: map[int]bool{}, signals: make(chan os.Signal, 1), done: make(chan struct{})}
	signal.Notify(r.signals, unix.SIGCHLD)
	go r.run()
	return r, nil
}

func (r *Reaper) run() {
	defer close(r.done)
	for range r.signals {
		r.reap()
	}
}

// reap takes the exits of children that this process has not started.
func (r *Reaper) reap() {
	for _, pid := range children() {
		r.mu.Lock()
		if !r.own[pid] {
			unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
		r.mu.Unlock()
	}
}

// children are this process's own, orphans that fell to it too. They are read from
// where that is cheap: with a hundred sandboxes to reap, a look at every process of
// the host for each would be most of what this process does.
func children() []int {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	var pids []int
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for word := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	if len(lists) > 0 {
		return pids
	}
	// A kernel without CONFIG_PROC_CHILDREN.
	self := os.Getpid()
	for _, p := range ancestry() {
		if p.Parent == self {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

// Close ends the reaping.
func (r *Reaper) Close() {
	signal.Stop(r.signals)
	close(r.signals)
	<-r.done
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
}

// Start starts a command whose exit is then to be taken with Wait.
func (r *Reaper) Start(cmd *exec.Cmd) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	r.own[cmd.Process.Pid] = true
	return nil
}

// Wait waits for a command that was started with Start.
func (r *Reaper) Wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.own, cmd.Process.Pid)
	return err
}

// Run starts a command and waits for it.
func (r *Reaper) Run(cmd *exec.Cmd) error {
	if err := r.Start(cmd); err != nil {
		return err
	}
	return r.Wait(cmd)
}

// owns says whether pid was started by Start and not waited for yet.
func (r *Reaper) owns(pid int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.own[pid]
}
