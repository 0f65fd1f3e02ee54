// Package process runs the host processes that make up a virtual machine: QEMU
// and the daemons beside it.
//
//	Start ──▶ running ──exit, signal, Kill, death of this process──▶ gone (Done)
//
// What holds for each of them:
//
//   - It never outlives this process: the kernel kills it (PR_SET_PDEATHSIG) when
//     the thread that forked it ends, so that thread is kept for as long as the
//     process lives, by the goroutine that waits for it.
//   - It runs in the network namespace that its Spec names, and this process stays
//     where it is: the thread that went there is thrown away.
//   - With a Root it sees no file of the host but those that this names, and none of
//     them once it is settled but those that it keeps.
//   - It gets the descriptors and the environment that its Spec names, no others.
//   - Confined to a User, it starts without any capability, with an empty
//     bounding set and no_new_privs, before its first instruction.
//   - It is waited for and signalled through a pidfd: its pid is never mistaken
//     for that of a successor.
//   - What it prints is kept, bounded and made printable.
//
// When Start fails nothing is left behind. After Done is closed nothing of the
// process is left: no zombie, no descriptor, no goroutine.
package process
