"""The results that a caller keeps: plain values for JSON, without a secret."""

from __future__ import annotations

import dataclasses
from typing import Any

from xenvol.session.refs import SRRef, VBDRef, VDIRef, VMRef


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A connected volume: a VDI of the pool that a VM can start from."""

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
    """A volume attached to a VM. Uuids are stable; references change with xapi's database."""

    attachment_id: str
    """Names this attachment only. Given to `detach_volume`, it keeps a late detach off a newer attachment."""
    volume_id: str
    """The service's id of the volume, or a key made of its connection_info if that has no id."""
    driver: str
    """The driver_volume_type of its connection_info."""
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
    """The guest's name of the disk (``xvdb``), read back from xapi. Empty until the disk has been plugged once."""
    mode: str
    """RW or RO."""
    is_plugged: bool

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
