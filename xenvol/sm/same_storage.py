"""Find out whether two backends are on the same storage: their space would be counted twice.

Also find out whether a LUN that an SR shows as a VDI is the LUN on which another backend keeps its volumes.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Collection, Mapping

import sqlalchemy as sa

from xenvol.errors import VolumeInUse
from xenvol.sm import backend_rows, config, volume_rows
from xenvol.sm.config import BackendConfig
from xenvol.sm.errors import InvalidConfig
from xenvol.sm.records import Backend


def of(wanted: BackendConfig, host_uuid: str | None) -> frozenset[str]:
    """Return the names of the storage. Those of local storage contain the host's uuid."""
    if host_uuid is None:
        return wanted.locations
    return frozenset(f"{place} of host {host_uuid}" for place in wanted.locations)


def of_backend(backend: Backend) -> frozenset[str]:
    return of(config.parse(backend.sr_type, backend.params), backend.host_uuid)


def unique(wanted: BackendConfig, names: Collection[str]) -> str:
    """Return what no two backends may share. Storage that knows the uuids of its SRs may have several, by uuid."""
    return listed(names) + (f" sr_uuid={wanted.sr_uuid}" if wanted.sr_uuid and wanted.has_uuid else "")


def registered(connection: sa.Connection, wanted: BackendConfig, names: Collection[str]) -> Backend | None:
    """Return the backend that has this storage already, under any of its names, or this SR; else None."""
    if wanted.sr_uuid is not None:
        there = backend_rows.find(connection, sr_uuid=wanted.sr_uuid)
        there = there or backend_rows.find(connection, place=unique(wanted, names))
        if there is not None or wanted.has_uuid:
            return there
    every = backend_rows.all_of(connection)
    return next((backend for backend in every if not of_backend(backend).isdisjoint(names)), None)


def is_same(backend: Backend, wanted: BackendConfig, host_uuid: str | None) -> bool:
    """Return True if an unfinished backend is the same as the one that is wanted now."""
    is_of_type = backend.sr_type == wanted.sr_type.name and backend.host_uuid == host_uuid
    return (
        is_of_type
        and backend.params.get("sr_uuid") == wanted.sr_uuid
        and of_backend(backend) == of(wanted, host_uuid)
    )


def listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))


def lun_vdi(scsi_id: str) -> str:
    """Return the uuid of the VDI that shows a LUN: the same in every SR (docs/background/xapi.md 5.4)."""
    return str(uuid.UUID(hashlib.md5(scsi_id.encode(), usedforsecurity=False).hexdigest()))


_BY_ID = re.compile(r"/scsi-([^/]+)$")
"""The path of a device that names its SCSI id: ``/dev/disk/by-id/scsi-3600…``."""


def luns_under(device_config: Mapping[str, object]) -> set[str]:
    """Return the uuids of the VDIs that would show the LUNs on which such an SR keeps its data."""
    named = [found[1] for each in _listed_in(device_config, "device") if (found := _BY_ID.search(each))]
    return {lun_vdi(scsi_id) for scsi_id in [*named, *_listed_in(device_config, "SCSIid")]}


def check_under_none(connection: sa.Connection, vdi_uuid: str) -> None:
    """Raise VolumeInUse if a backend keeps its volumes on the LUN that this VDI shows: a VM would overwrite them."""
    for backend in backend_rows.all_of(connection):
        if not backend.type.luns and vdi_uuid in luns_under(backend.params):
            users = [f"backend {backend.id} ({backend.sr_type}), which keeps its volumes on it"]
            raise VolumeInUse(vdi_uuid, users=users, is_to_go=True)


def check_no_volume(connection: sa.Connection, wanted: BackendConfig) -> None:
    """Raise InvalidConfig if the backend would lie on a LUN that is a volume."""
    for vdi_uuid in sorted(luns_under(wanted.device_config)):
        volume = volume_rows.by_vdi(connection, vdi_uuid)
        if volume is not None:
            problem, remedy = f"names the LUN that is volume {volume.id!r}", "unmanage the volume first"
            raise InvalidConfig(
                wanted.sr_type.name, wanted.sr_type.formats or "", problem=problem, remedy=remedy
            )


def _listed_in(device_config: Mapping[str, object], key: str) -> list[str]:
    return [each.strip() for each in str(device_config.get(key, "")).split(",") if each.strip()]
