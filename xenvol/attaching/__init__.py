"""Attach VDIs to VMs: find the VM, the slot and the VBD of a volume, check who uses the disk, list what is attached."""
