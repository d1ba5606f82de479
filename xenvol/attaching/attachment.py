"""A volume in a VM, as the caller may keep it: plain words, JSON-able, without a secret."""

from __future__ import annotations

import dataclasses
from typing import Any

from xenvol.session.refs import SRRef, VBDRef, VDIRef, VMRef


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A connected volume: a disk of the pool that a VM could start from."""

    sr_ref: SRRef
    sr_uuid: str
    vdi_ref: VDIRef
    vdi_uuid: str
    virtual_size: int
    """Bytes."""

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A volume attached to a VM. References change with xapi's database, uuids do not."""

    attachment_id: str
    """Names this attachment and no later one: give it to `detach_volume`, and a late detach does no harm."""
    volume_id: str
    """What the service calls the volume, or a digest of its connection_info where that gives no id."""
    driver: str
    """The driver_volume_type that it came by."""
    vm_ref: VMRef
    vm_uuid: str
    vbd_ref: VBDRef
    vbd_uuid: str
    vdi_ref: VDIRef
    vdi_uuid: str
    virtual_size: int
    """Bytes."""
    sr_ref: SRRef
    sr_uuid: str
    userdevice: str
    """The position, 0 to 254, in decimal."""
    device: str
    """What the guest calls the disk (``xvdb``), read back from xapi; empty until the disk has been plugged once."""
    mode: str
    """RW or RO."""
    is_plugged: bool

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
