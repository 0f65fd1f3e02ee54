// Package rehearsal is the container that a machine runs before it has a sandbox: as
// much like those that people run as it can be, and nobody's.
package rehearsal
