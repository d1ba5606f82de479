"""The connection_info of a volume: type ``xensm``, in the form of nova-volume's (docs/background/peers.md e.2).

A pool that has the SR needs only the uuids of the SR and of the VDI, and no more is handed out. Whoever reads a
connection_info that introduces the SR can reach the SR's other volumes too. So such a connection_info is made only
where the caller asks for it, and a password is in it only if the caller names the password's key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from xenvol.secret import Secret
from xenvol.sm import config, passwords, same_storage, volumes
from xenvol.sm.context import Context
from xenvol.sm.errors import NotSupported
from xenvol.sm.records import Backend

DRIVER = "xensm"


def initialize(
    context: Context,
    volume_id: str,
    connector: Mapping[str, object] | None = None,
    *,
    introduce: bool = False,
    secrets: Collection[str] = (),
) -> dict[str, Any]:
    """Return the connection_info of a volume. It is the same for every host, since any host reaches an SR by its
    config.

    It has no secret, and a pool that has the SR can attach with it. With `introduce`, it also says how to introduce the
    SR in a pool that does not have it. `secrets` names the keys of the passwords that may be in it, and implies
    `introduce`: hand the result only to the process that attaches.

    Raises UnknownVolume, VolumeNotReady, BackendNotReady; VolumeInUse for a LUN on which a backend lies; NotSupported
    for a snapshot, or if the SR cannot be introduced without a password that `secrets` does not name.
    """
    volume, backend = volumes.get_with_backend(context, volume_id)
    if volume.is_snapshot:
        raise NotSupported(
            f"attaching {volume_id}", reason="it is a snapshot: clone it, and attach the clone"
        )
    if backend.type.luns and volume.vdi_uuid is not None:
        context.database.read(same_storage.check_under_none, volume.vdi_uuid)
    data: dict[str, Any] = {
        "volume_id": volume.id,
        "backend_id": backend.id,
        "flavor_id": backend.flavor_id,
        "sr_uuid": backend.sr_uuid,
        "vdi_uuid": volume.vdi_uuid,
        "size_bytes": volume.virtual_size,
    }
    if introduce or secrets:
        data |= _introducing(context, backend, secrets)
    return {"driver_volume_type": DRIVER, "data": data}


def _introducing(context: Context, backend: Backend, secrets: Collection[str]) -> dict[str, Any]:
    """Return the keys that say how to introduce the backend's SR."""
    wanted = config.parse(backend.sr_type, backend.params)
    stored = {key: str(value) for key, value in wanted.device_config.items()}
    device_config: Mapping[str, str | Secret] = stored
    if needed := passwords.keys_in(stored):
        if unnamed := [key for key in needed if key not in secrets]:
            reason = (
                f"that takes its {' and '.join(unnamed)}, which is handed out only if it is named "
                f"({' '.join(f'--secret {key}' for key in unnamed)}); `xenvol sm setup` introduces the SR in a pool "
                "without that"
            )
            raise NotSupported(f"saying how to introduce the SR of backend {backend.id}", reason=reason)
        device_config = passwords.revealed(context.view(), backend.id, stored)
    described = {**device_config, **wanted.sm_config}
    label = {} if wanted.name_label is None else {"name_label": wanted.name_label}
    return {
        "sr_type": backend.sr_type,
        "introduce_sr_keys": [*described, "sr_type"],
        **{key: value.reveal() if isinstance(value, Secret) else value for key, value in described.items()},
        **label,
    }


def terminate(context: Context, volume_id: str, connector: Mapping[str, object] | None = None) -> None:
    """Do nothing: detaching is the caller's work, and no export exists. Idempotent."""
