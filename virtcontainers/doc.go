// Package virtcontainers holds what is true of any hypervisor: the contract of a
// VM driver, and the plans that turn an OCI bundle into what the guest must run.
//
// Plans are pure data: a function from a bundle's configuration to the mounts,
// files and guest configuration that a container needs. They touch neither the
// host nor a VM, so they are tested without one.
package virtcontainers
