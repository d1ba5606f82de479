"""The hypervisors' view of the running VMs: which disk is in which slot of which domain.

The database holds what xapi believes; this module holds the actual state. The two differ during an operation,
and permanently if a VBD's userdevice is changed while its disk is plugged (trace 05#48).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Domain:
    """One running VM on a hypervisor."""

    host: str
    disks: dict[str, str] = field(default_factory=dict)
    """Device in the guest (``xvda``) -> reference of the VDI behind it, NULL for an empty drive."""
    storage: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Device -> (VDI, writable): the disk that the host attached for this device, and must detach again."""
