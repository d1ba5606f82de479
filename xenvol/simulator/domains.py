"""What runs on the hosts' hypervisors, as they see it: which disk is in which slot of which domain.

The database says what xapi believes; this says what is so. The two differ while something happens, and for good
where a VBD's userdevice was changed under a plugged disk (trace 05#48).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Domain:
    """One running VM."""

    host: str
    disks: dict[str, str] = field(default_factory=dict)
    """Device in the guest (``xvda``) -> reference of the VDI behind it, NULL for an empty drive."""
    storage: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Device -> (VDI, writable): what was attached on the host for it, and must be detached again."""
