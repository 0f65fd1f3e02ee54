// Package pool is how shims that wait for a pod are found by the one who needs one: a
// directory below that of the servers' run directories.
//
//	pool/<key>/<n>       who waits in place n: lines as in package record; its lock is
//	                     held as long as it does
//	pool/<key>/<n>.dir   files of its machine
//	pool/<key>/<n>.sock  where it waits for a claim, from when it is ready
//	pool/<key>/starts    when pods of this key were started lately
//
// The key is made of all that must be equal for a machine that was made for one pod to
// be of use to another: see Key. Who waits sees to it that it still is, when it is claimed.
//
//	Take ──▶ place taken ──Await──▶ claimed by one ──▶ left
//	             └── idle, told to end, of no more use ──▶ left
//
// Nobody owns the pool. Each who waits owns its machine, which the kernel ends with it.
// What one that was killed or claimed has left is removed by the next who looks, under the
// lock of the pool's directory, which nobody holds for long, and for which no pod waits.
package pool
