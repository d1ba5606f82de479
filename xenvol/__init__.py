"""Attach block storage to virtual machines on XenAPI hypervisors."""
