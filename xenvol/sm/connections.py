"""The connection_info of a volume: type ``xensm``, in the form of nova-volume's (docs/background/peers.md e.2)."""

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
    """Return the connection_info of a volume. It is the same for every host, since any host reaches an SR by its
    config.

    It contains the passwords that a host needs to log in: hand it only to the process that attaches. Raises
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
    """Do nothing: detaching is the caller's work, and no export exists. Idempotent."""
