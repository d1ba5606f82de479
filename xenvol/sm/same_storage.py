"""Find out whether two backends are on the same storage: their space would be counted twice."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from xenvol.sm import backend_rows, config
from xenvol.sm.config import BackendConfig
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
