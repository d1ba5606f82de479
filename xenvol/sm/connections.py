"""What a volume is to whoever attaches it: a connection_info of type ``xensm``, in the form of nova-volume's.

facts/peers.md e.2 has that form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xenvol.secret import Secret
from xenvol.sm import config, passwords, volumes
from xenvol.sm.context import Context
from xenvol.sm.errors import NotSupported

DRIVER = "xensm"


def initialize(
    context: Context, volume_id: str, connector: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """The connection_info. It is the same for whichever host asks, since any of them reaches an SR by its config.

    It has the passwords in it that are needed to log in: hand it to whoever attaches, and to nobody else. Raises
    UnknownVolume, VolumeNotReady, NotSupported for a snapshot, BackendNotReady.
    """
    volume, backend = volumes.get_with_backend(context, volume_id)
    if volume.is_snapshot:
        raise NotSupported(
            f"attaching {volume_id}", reason="it is a snapshot: clone it, and attach the clone"
        )
    wanted = config.parse(backend.sr_type, backend.params)
    stored = {key: str(value) for key, value in wanted.device_config.items()}
    device_config: Mapping[str, str | Secret] = stored
    if passwords.keys_in(stored):
        device_config = passwords.revealed(context.view(), backend.id, stored)
    described = {**device_config, **wanted.sm_config}
    data: dict[str, Any] = {
        "volume_id": volume.id,
        "backend_id": backend.id,
        "flavor_id": backend.flavor_id,
        "sr_uuid": backend.sr_uuid,
        "sr_type": backend.sr_type,
        "vdi_uuid": volume.vdi_uuid,
        "size_bytes": volume.virtual_size,
        "introduce_sr_keys": [*described, "sr_type"],
        **{key: value.reveal() if isinstance(value, Secret) else value for key, value in described.items()},
    }
    if wanted.name_label is not None:
        data["name_label"] = wanted.name_label
    return {"driver_volume_type": DRIVER, "data": data}


def terminate(context: Context, volume_id: str, connector: Mapping[str, object] | None = None) -> None:
    """Nothing: whoever attached the volume detaches it, and no export is made for anybody. Idempotent."""
