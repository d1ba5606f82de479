"""Which storage a backend is: two names of one place are one backend, or its space would be counted twice."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from xenvol.sm import backend_rows, config
from xenvol.sm.config import BackendConfig
from xenvol.sm.records import Backend


def of(wanted: BackendConfig, host_uuid: str | None) -> frozenset[str]:
    """The names of the storage; what is local to a host has its name with it."""
    if host_uuid is None:
        return wanted.locations
    return frozenset(f"{place} of host {host_uuid}" for place in wanted.locations)


def of_backend(backend: Backend) -> frozenset[str]:
    return of(config.parse(backend.sr_type, backend.params), backend.host_uuid)


def unique(wanted: BackendConfig, names: Collection[str]) -> str:
    """What no two backends have. On storage that tells its SRs apart there may be several, by their uuids."""
    return listed(names) + (f" sr_uuid={wanted.sr_uuid}" if wanted.sr_uuid and wanted.has_uuid else "")


def registered(connection: sa.Connection, wanted: BackendConfig, names: Collection[str]) -> Backend | None:
    """The backend that has this storage already, under whichever of its names, or this SR."""
    if wanted.sr_uuid is not None:
        there = backend_rows.find(connection, sr_uuid=wanted.sr_uuid)
        there = there or backend_rows.find(connection, place=unique(wanted, names))
        if there is not None or wanted.has_uuid:
            return there
    every = backend_rows.all_of(connection)
    return next((backend for backend in every if not of_backend(backend).isdisjoint(names)), None)


def is_same(backend: Backend, wanted: BackendConfig, host_uuid: str | None) -> bool:
    """Whether the backend, which nobody has finished, is the very one that is wanted now."""
    is_of_type = backend.sr_type == wanted.sr_type.name and backend.host_uuid == host_uuid
    return (
        is_of_type
        and backend.params.get("sr_uuid") == wanted.sr_uuid
        and of_backend(backend) == of(wanted, host_uuid)
    )


def listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
