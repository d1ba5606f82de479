"""How volumes get into VMs: which VM, which slot, which disk is the volume, who else uses it, and what is attached."""
