"""Write the rows of a lost database anew, from the marks that the pool has.

An SR says which backend and which flavor it belongs to, and a VDI says which volume it is. Rows that are there stay as
they are, so a database that was restored from a backup gets what it lacks. What no mark tells is left with a default,
or left out, and said: nothing is guessed between two disks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from xenvol.errors import XenVolError
from xenvol.pool.marks import BACKEND, FLAVOR, MANAGED
from xenvol.pool.view import Record, View
from xenvol.sm import (
    backend_rows,
    capacity,
    flavor_rows,
    flavors,
    placement,
    registration,
    vdis,
    volume_rows,
)
from xenvol.sm.context import Context, say_nothing
from xenvol.sm.errors import UnknownFlavor
from xenvol.sm.records import Backend
from xenvol.storage.srtypes import sr_type_of

_UNKNOWN_OF_FLAVOR = "its description is empty; policy, over-subscription and reserve are the defaults"
_UNKNOWN_OF_ALL = [
    "backends: the weight of each is 1",
    "volumes: the size of each is that of its disk, which may be a little more than was asked for",
    "volumes: which image or volume each was copied from is not known",
]


@dataclass
class RebuildReport:
    """What was written, and what could not be known."""

    flavors: list[str] = field(default_factory=list)
    backends: list[int] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    """Volumes and snapshots."""
    defaults: list[str] = field(default_factory=list)
    """What was left with a default, in words."""
    left_out: list[str] = field(default_factory=list)
    """What could not be rebuilt, why, and what the operator can do."""

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self)}


def rebuild(
    context: Context,
    *,
    flavors_of: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = say_nothing,
) -> RebuildReport:
    """Write the flavors, backends, volumes and snapshots that the pool has, and that the database lacks. Idempotent.

    `flavors_of` has the label of the flavor of an SR, by the SR's uuid: an SR that the pool had before its backend, or
    that an earlier release marked, does not say it. No disk is touched. Raises XapiError, XapiUnreachable,
    DatabaseError.
    """
    view, report = context.view(), RebuildReport()
    marked: dict[str, list[Record]] = defaultdict(list)
    for vdi in view.all("VDI").values():
        if MANAGED in vdi["other_config"] and vdi["managed"]:
            marked[vdi["SR"]].append(vdi)
    for ref, sr_rec in sorted(view.all("SR").items(), key=lambda item: str(item[1]["name_label"])):
        if BACKEND not in sr_rec["other_config"] and ref not in marked:
            continue
        progress(f"SR {sr_rec['name_label']}")
        try:
            backend = _backend(context, sr_rec, flavors_of or {}, report)
            if backend is not None:
                _volumes(context, view, backend, marked[ref], report)
                capacity.refresh(context, context.view(), [backend])
        except XenVolError as error:  # one SR that is not in order must not stop the others
            report.left_out.append(f"SR {_called(sr_rec)}: {error}")
    return report


def _called(sr_rec: Record) -> str:
    return f"{sr_rec['name_label']} ({sr_rec['uuid']})"


def _backend(
    context: Context, sr_rec: Record, flavors_of: Mapping[str, str], report: RebuildReport
) -> Backend | None:
    """Return the backend of the SR, registered anew if the database lacks it; None if its flavor is not known."""
    there = context.database.read(backend_rows.find, sr_uuid=sr_rec["uuid"])
    if there is not None:
        return there
    label = flavors_of.get(sr_rec["uuid"]) or sr_rec["other_config"].get(FLAVOR)
    if label is None:
        report.left_out.append(
            f"SR {_called(sr_rec)}: no mark tells its flavor: give --flavor {sr_rec['uuid']}=LABEL"
        )
        return None
    try:
        context.database.read(flavor_rows.get, label)
    except UnknownFlavor:
        flavors.create(context, label, "")
        report.flavors.append(label)
        report.defaults.append(f"flavor {label}: {_UNKNOWN_OF_FLAVOR}")
    backend = registration.add(
        context,
        label,
        sr_type_of(sr_rec["type"]).name,
        {"sr_uuid": sr_rec["uuid"]},
        token=sr_rec["other_config"].get(BACKEND),
    )
    if not report.backends:
        report.defaults += _UNKNOWN_OF_ALL
    report.backends.append(backend.id)
    return backend


def _volumes(
    context: Context, view: View, backend: Backend, marked: list[Record], report: RebuildReport
) -> None:
    """Write the rows of the disks: volumes first, since a snapshot names its volume."""
    by_id: dict[str, list[Record]] = defaultdict(list)
    for vdi in marked:
        by_id[vdi["other_config"][MANAGED]].append(vdi)
    chosen = {volume_id: _the_disk(volume_id, disks, report) for volume_id, disks in by_id.items()}
    found = [(volume_id, vdi) for volume_id, vdi in chosen.items() if vdi is not None]
    for volume_id, vdi in sorted(found, key=lambda each: (each[1]["is_a_snapshot"], each[0])):
        if any(not mark.is_on_source(vdi) for mark in vdis.marks_of(vdi)):
            report.left_out.append(
                f"VDI {vdi['uuid']}: volume {volume_id} was never finished: `xenvol sm audit --repair` removes it"
            )
            continue
        source_id = _source_of(view, vdi)
        if vdi["is_a_snapshot"] and source_id is None:
            report.left_out.append(
                f"VDI {vdi['uuid']}: snapshot {volume_id} does not tell whose it is: its volume is gone"
            )
            continue
        if _write(context, backend, volume_id, vdi, source_id if vdi["is_a_snapshot"] else None, report):
            report.volumes.append(volume_id)


def _the_disk(volume_id: str, disks: list[Record], report: RebuildReport) -> Record | None:
    """Return the disk that is the volume; None if several say so, since a copy inherits the mark of its source."""
    if len(disks) > 1:
        disks = [disk for disk in disks if not disk["is_a_snapshot"]] or disks  # a backup of it
    if len(disks) == 1:
        return disks[0]
    listed = ", ".join(sorted(disk["uuid"] for disk in disks))
    report.left_out.append(
        f"volume {volume_id}: VDIs {listed} all say that they are it, and some are copies: "
        f"`xenvol sm volume_manage VDI --id {volume_id}` chooses"
    )
    return None


def _source_of(view: View, vdi: Record) -> str | None:
    """Return the id of the volume of a snapshot, by the mark of the VDI that it is a snapshot of; else None."""
    source = view.known("VDI", vdi["snapshot_of"])
    marked: str | None = None if source is None else source["other_config"].get(MANAGED)
    return marked


def _write(
    context: Context,
    backend: Backend,
    volume_id: str,
    vdi: Record,
    snapshot_of: str | None,
    report: RebuildReport,
) -> bool:
    """Write the row of a volume or a snapshot. Return False if it is there, or cannot be written."""
    size = int(vdi["virtual_size"])
    default = f"{'volume' if snapshot_of is None else 'snapshot'}-{volume_id}"

    def write(connection: sa.Connection) -> str | None:
        there = volume_rows.find(connection, volume_id)
        if there is not None:
            return None if there.vdi_uuid == vdi["uuid"] else f"is VDI {there.vdi_uuid} in the database"
        vdis.check_names(volume_id)
        volume_rows.add(
            connection,
            volume_id,
            backend_id=backend.id,
            size=size,
            cost=placement.cost(backend, size),
            name="" if vdi["name_label"] == default else vdi["name_label"],
            state="available",
            vdi_uuid=vdi["uuid"],
            virtual_size=size,
            source_id=snapshot_of,
            snapshot_of=snapshot_of,
        )
        return ""

    try:
        problem = context.database.write(write)
    except (IntegrityError, XenVolError) as error:
        problem = f"cannot be written ({error})" if isinstance(error, XenVolError) else "is another volume's"
    if problem:
        report.left_out.append(f"VDI {vdi['uuid']}: volume {volume_id} {problem}")
    return problem == ""
