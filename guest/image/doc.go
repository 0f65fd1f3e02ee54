// Package image builds the guest's initial RAM file system: the archive that the kernel unpacks into its
// root before it runs /init, which is Hyper's agent.
//
// The archive is a function of its inputs alone. Entries are sorted, owned by root, dated zero and numbered
// in order, so that the same agent and the same modules always give the same bytes: the hash of the image is
// part of the key of a saved template, and two builds of one source must not look like two guests.
//
// It is not compressed. Under emulation (q35, 256 MiB, medians of seven boots) an image of 9 MB reached its init
// 0.13 s earlier than the same one through gzip, and 0.25 s earlier than through zstd: the guest's processor
// would have to decompress what the host copies at memory speed.
package image
