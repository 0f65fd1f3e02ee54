// Package volume keeps in a guest the copy of a directory of the host that is
// changed while it is used, as kubelet does with ConfigMaps and Secrets.
//
// A share would show the guest the new content, late, and tell nobody in it. The
// copy is changed by the guest's kernel itself, step by step as on the host, so
// that who waits for a change by inotify learns of it:
//
//	inotify on the host → read the directory → what differs → the agent repeats it
//
// The order of the steps is that of kubelet: what is new, then the links that
// change, each in one step, then what is gone. A Sync that fails leaves the copy
// somewhere in between, and the next goes on.
package volume
