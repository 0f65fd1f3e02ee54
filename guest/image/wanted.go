package image

// DistributionModules are the modules that a distribution's modular kernel has to load to be Hyper's guest,
// in the order in which their work is waited for: what the agent calls home with comes first, then what a
// container's root file system and network need. Their dependencies are found by Order.
//
// Left out, because every boot would pay for them: xfs (4 MB), packet filter modules, bridges and tunnels.
// HyperKernel has them all.
func DistributionModules() []string {
	return []string{
		// The way out: the bus, then the channel to the host on either transport.
		"virtio_pci",
		"virtio_mmio",
		"virtio_console",
		"vmw_vsock_virtio_transport",
		// Entropy, before anything asks for it.
		"virtio_rng",
		// Root file systems: a share, a disk, and what lies on them.
		"virtiofs",
		"virtio_blk",
		"overlay",
		"erofs",
		"ext4",
		"virtio_scsi",
		"sd_mod",
		// The network, and what a program expects of it.
		"virtio_net",
		"af_packet",
		// Memory that comes and goes.
		"virtio_mem",
		"virtio_balloon",
	}
}
