// Package e2e holds the end-to-end tests: real containers by a real containerd
// in real virtual machines, as a user and as an operator would meet them, and
// what bad input and bad luck do to them.
//
// One file is one subject. Every test runs on each containerd and with each guest
// kernel, in as few pairs as that takes, and after each of them nothing may be left on
// the host.
package e2e
