package agent

import (
	"path/filepath"
	"sync"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

// oomWatch publishes an event when the kernel kills a process of a container
// for lack of memory.
type oomWatch struct {
	files *inotify
	hub   *events
	ended chan struct{}

	mu      sync.Mutex
	watched map[int]*oomWatched // by the number of the watch
}

type oomWatched struct {
	c     *container
	kills uint64
}

func newOOMWatch(hub *events) (*oomWatch, error) {
	files, err := newInotify()
	if err != nil {
		return nil, err
	}
	w := &oomWatch{files: files, hub: hub, ended: make(chan struct{}), watched: map[int]*oomWatched{}}
	go w.run()
	return w, nil
}

func (w *oomWatch) add(c *container) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	wd, err := w.files.add(filepath.Join(string(c.cgroup), "memory.events"))
	if err != nil {
		return err
	}
	w.watched[wd] = &oomWatched{c: c, kills: c.cgroup.oomKills()}
	return nil
}

func (w *oomWatch) remove(c *container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for wd, o := range w.watched {
		if o.c == c {
			w.files.remove(wd)
			delete(w.watched, wd)
		}
	}
}

// run ends when close is called.
func (w *oomWatch) run() {
	defer close(w.ended)
	for {
		wds, err := w.files.next()
		if err != nil {
			return
		}
		for _, wd := range wds {
			w.look(wd)
		}
	}
}

func (w *oomWatch) look(wd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.watched[wd]
	if o == nil {
		return
	}
	kills := o.c.cgroup.oomKills()
	if kills > o.kills {
		o.kills = kills
		o.c.log.infof("out of memory in container %s", o.c.id)
		w.hub.publish(&agentv1.Event{Event: &agentv1.Event_Oom{Oom: &agentv1.OOM{ContainerId: o.c.id}}})
	}
}

func (w *oomWatch) close() {
	w.files.close()
	<-w.ended
}
