package agent

import agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"

// processes lists the container's processes, and says which began as execs.
func (c *container) processes() ([]*agentv1.Process, error) {
	pids, err := c.cgroup.pids()
	if err != nil {
		return nil, err
	}
	execs := map[int]string{}
	for _, p := range c.listExecs() {
		if state, pid := p.current(); state == stateRunning {
			execs[pid] = p.execID
		}
	}
	list := make([]*agentv1.Process, 0, len(pids))
	for _, pid := range pids {
		list = append(list, &agentv1.Process{Pid: uint32(pid), ExecId: execs[pid]})
	}
	return list, nil
}
