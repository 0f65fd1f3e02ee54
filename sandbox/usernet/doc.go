// Package usernet gives a network namespace a way out through sockets of the host,
// by the program pasta: an interface whose frames pasta turns into connections of
// its own. Nothing comes in by it. TCP, UDP and echo, by IPv4 and IPv6, as the host has
// a default route of them.
//
// A frame for a loopback address would become a connection to the host's loopback:
// whoever joins the interface to a guest must drop these.
package usernet
