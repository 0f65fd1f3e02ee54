// Package layers keeps the read-only part of root file systems as disk images: what
// the lower directories of an overlay show together is one EROFS image, that any
// number of machines can have as a disk at the same time.
//
// An image is built once, in the background, by whoever first sees its layers:
//
//	(none) ──Build──▶ <key>.building, locked ──rename──▶ <key>.erofs ──prune──▶ (none)
//	                    └─ failure, for a day ─▶ <key>.failed
//
// The key names the layers by what cannot stay the same when they change: see Key.
// One builder at a time holds the lock of a key; one that dies leaves a file that
// nobody holds, which the next one writes over. An image has its name only when it
// is whole. It is checked each time it is opened, and one that is damaged is removed,
// to be built again. Whoever has one open keeps it, also when it has been removed.
//
// The cache is bounded in bytes: the images that have not been opened for longest go.
//
// The other file is <size>.ext4, an empty file system for what a container writes. It
// takes a few hundred KiB, and each container gets a copy.
package layers
