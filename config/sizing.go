package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// AnnotationPrefix begins the annotations that are ours. What follows is the
// name of a key of [sandbox]: "memory_mib" or "vcpus".
const AnnotationPrefix = "io.containerd.hyper.v2."

const (
	annotationMemory = "memory_mib"
	annotationVCPUs  = "vcpus"
)

// allAnnotations is what sandbox.annotations may list.
func allAnnotations() []string { return []string{annotationMemory, annotationVCPUs} }

// Sizing is the size of a virtual machine.
type Sizing struct {
	MemoryMiB uint64
	VCPUs     uint32
}

// FixesVCPUs says whether annotations name the number of virtual CPUs, which then does
// not follow the containers' limits.
func FixesVCPUs(annotations map[string]string) bool {
	_, ok := annotations[AnnotationPrefix+annotationVCPUs]
	return ok
}

// Limits is the largest virtual machine that a sandbox may have: the
// configured bounds, or where there are none what this host has.
func (c *Config) Limits() Sizing { return c.limits(thisHost()) }

func (c *Config) limits(h host) Sizing {
	l := Sizing{MemoryMiB: h.memoryMiB, VCPUs: h.cpus}
	if c.Sandbox.MaxMemoryMiB != 0 {
		l.MemoryMiB = c.Sandbox.MaxMemoryMiB
	}
	if c.Sandbox.MaxVCPUs != 0 {
		l.VCPUs = c.Sandbox.MaxVCPUs
	}
	return l
}

// ApplyAnnotations is the configured size with what annotations ask for.
// Annotations of others are ignored. One that has our prefix and is unknown,
// not in sandbox.annotations, or out of bounds is an
// errdefs.ErrInvalidArgument that says what is allowed.
func (c *Config) ApplyAnnotations(annotations map[string]string) (Sizing, error) {
	return c.applyAnnotations(annotations, thisHost())
}

func (c *Config) applyAnnotations(annotations map[string]string, h host) (Sizing, error) {
	size, limits := Sizing{c.Sandbox.MemoryMiB, c.Sandbox.VCPUs}, c.limits(h)
	for annotation, value := range annotations {
		name, ours := strings.CutPrefix(annotation, AnnotationPrefix)
		if !ours {
			continue
		}
		if !slices.Contains(allAnnotations(), name) || !slices.Contains(c.Sandbox.Annotations, name) {
			return Sizing{}, c.refuse(annotation)
		}
		var err error
		switch name {
		case annotationMemory:
			size.MemoryMiB, err = bounded(annotation, value, MinMemoryMiB, limits.MemoryMiB, "MiB")
		case annotationVCPUs:
			var n uint64
			n, err = bounded(annotation, value, 1, uint64(limits.VCPUs), "virtual CPUs")
			size.VCPUs = uint32(n)
		}
		if err != nil {
			return Sizing{}, err
		}
	}
	return size, nil
}

func (c *Config) refuse(annotation string) error {
	allowed := "none is allowed"
	if len(c.Sandbox.Annotations) > 0 {
		allowed = "allowed are " + AnnotationPrefix + strings.Join(c.Sandbox.Annotations, ", "+AnnotationPrefix)
	}
	return fmt.Errorf("annotation %s is not allowed: %s (sandbox.annotations in the configuration): %w",
		annotation, allowed, errdefs.ErrInvalidArgument)
}

func bounded(annotation, value string, low, high uint64, unit string) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("annotation %s=%q: allowed is a whole number of %s from %d to %d: %w",
			annotation, value, unit, low, high, errdefs.ErrInvalidArgument)
	}
	return n, nil
}
