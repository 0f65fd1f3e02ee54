package virtcontainers

// planSecurity takes out the labels of the host's security modules, which no
// guest kernel has: the virtual machine is the wall that they would be.
func (p *Plan) planSecurity(Placement) error {
	proc := p.Guest.Process
	if proc.ApparmorProfile != "" {
		p.note("AppArmor profile %s is not applied in the guest", proc.ApparmorProfile)
		proc.ApparmorProfile = ""
	}
	if proc.SelinuxLabel != "" || p.Guest.Linux.MountLabel != "" {
		p.note("SELinux labels are not applied in the guest")
		proc.SelinuxLabel, p.Guest.Linux.MountLabel = "", ""
	}
	return nil
}
