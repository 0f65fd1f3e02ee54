// Package virtiofsd runs the daemon that shares a directory of the host with a
// guest: either the one in C that came with QEMU up to 7.2, or its successor in
// Rust.
//
//	Start ──▶ running, its socket for QEMU ──QEMU ends, Kill, death──▶ gone (Done)
//
// The daemon confines itself: it moves into namespaces of its own in which it
// sees nothing but the shared directory, drops the capabilities that it does not
// need, and filters its system calls. In front of that it gets a PID namespace, so
// that killing it leaves none of its helpers, and descriptors that it needs only.
//
// Mounts: what is mounted below the shared directory before Start is seen by the
// guest. What is mounted there later is seen as well if the directory was on a
// mount with shared propagation by then, and gone when it is unmounted. Each mount
// is announced to the guest, where it becomes a file system with a device number
// of its own: the inode numbers of different file systems would collide otherwise.
//
// The daemon holds open every file that the guest knows of, and with it the file
// system below, so that a mount which the guest has used is busy on the host. To be
// rid of it: unmount it in the guest, let the guest forget what it has cached of it
// (2 into /proc/sys/vm/drop_caches), then unmount it on the host. A lazy unmount on
// the host alone hides it from the guest only when its caches are a second old, and
// keeps the file system alive until the guest forgets or ends. An announced mount
// can be a layer of an overlay in the guest, but not lie within one.
//
// A guest whose daemon dies waits for its files for ever: whoever runs the two
// ends the machine when Done is closed.
package virtiofsd
