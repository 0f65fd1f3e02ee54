// Package template keeps saved machines as files, one for each kind of machine,
// named by a key of all that it is made of.
//
//	(nothing) ──Build──▶ building ──▶ stored ──Open──▶ an Image, of which clones are made
//	    ▲                   │           │
//	    │                 fails     damaged, discredited, or the least used when room is wanted
//	    └───────────────────┴───────────┘
//
// There is one builder in a store at a time, which holds a lock that ends with its
// process. It writes a file of another name and renames it when it is whole: so a
// stored file is whole, and what a killed builder has left is removed by the next.
// Nothing waits for the disk: a file that a crash of the host has cut off or mixed up
// does not have its checksums, like any other that is damaged, and is removed by who
// finds that out. Files are not changed once they are stored, and whoever has one
// open keeps it when it is removed.
//
// A build that failed is not tried again for a while.
package template
