"""Attach a disk to a host and detach it, and find the file with its bytes.

A disk that two domains of one host use is attached once (storage_smapiv1_wrapper.ml counts datapaths).
Attaching also makes xapi's own notes: whether reads are cached, and whether the content is still the same.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from xenvol.simulator.failure import internal_error
from xenvol.simulator.rules import backend, sr_hosts

if TYPE_CHECKING:
    from pathlib import Path

    from xenvol.simulator.rulebook import Call


WITHOUT_NBD = frozenset(("dummy", "flaky", "iscsi", "rawiscsi", "hba", "udev"))
"""SR types whose disks cannot be plugged into dom0: their drivers return no NBD address."""


def attach(call: Call, host: str, vdi: str, *, read_write: bool) -> None:
    """Attach the disk to the host.

    Raises HANDLE_INVALID [VDI, ref], SR_HAS_NO_PBDS [sr] if the SR is not plugged on the host, or the
    driver's error (SR_BACKEND_FAILURE_46 if the disk is missing).
    """
    db = call.db
    row = db.row("VDI", vdi)
    sr_hosts.assert_plugged(db, row["SR"], host)
    backend.run(
        call,
        row["SR"],
        host,
        lambda driver: driver.vdi_attach(row["uuid"], read_write),
        fault=backend.ATTACH_FAULT,
        vdi=vdi,
    )
    call.xapi.datapaths[host, vdi] += 1
    host_uuid = db.row("host", host)["uuid"]
    db.map_add("VDI", vdi, "sm_config", f"read-caching-enabled-on-{host_uuid}", "false")
    db.map_add("VDI", vdi, "sm_config", f"read-caching-reason-{host_uuid}", "SR_NOT_SUPPORTED")
    if read_write:
        db.map_remove("VDI", vdi, "other_config", "content_id")


def detach(call: Call, host: str, vdi: str) -> None:
    """Detach the disk for the last user on that host; HANDLE_INVALID if the VDI's row has vanished."""
    db = call.db
    row = db.row("VDI", vdi)
    if call.xapi.datapaths[host, vdi] > 1:
        call.xapi.datapaths[host, vdi] -= 1
        return
    backend.run(
        call,
        row["SR"],
        host,
        lambda driver: driver.vdi_detach(row["uuid"]),
        fault=backend.ATTACH_FAULT,
        vdi=vdi,
    )
    del call.xapi.datapaths[host, vdi]
    if "content_id" not in row["other_config"]:
        db.map_add("VDI", vdi, "other_config", "content_id", str(uuid.uuid4()))
    host_uuid = db.row("host", host)["uuid"]
    for key in (f"read-caching-enabled-on-{host_uuid}", f"read-caching-reason-{host_uuid}"):
        db.map_remove("VDI", vdi, "sm_config", key)


def assert_nbd(call: Call, vdi: str) -> None:
    """Raise INTERNAL_ERROR if the driver gives no NBD address: dom0 reads disks over NBD only.

    docs/background/recordings.md, "VBD on LUN-per-VDI".
    """
    sr_type = call.db.row("SR", call.db.row("VDI", vdi)["SR"])["type"]
    if sr_type in WITHOUT_NBD:
        raise internal_error('Failure("Could not parse NBD URI returned from the storage backend: ")')


def content(call: Call, host: str, vdi: str) -> Path:
    """Return the file with the disk's bytes, as a domain of that host sees them."""
    row = call.db.row("VDI", vdi)
    return backend.run(
        call,
        row["SR"],
        host,
        lambda driver: driver.vdi_file(row["uuid"]),
        fault=backend.ATTACH_FAULT,
        vdi=vdi,
    )


def room(call: Call, host: str, vdi: str) -> int | None:
    """Return the bytes by which the disk may still grow as it is written; None for no limit but its size."""
    row = call.db.row("VDI", vdi)
    return backend.run(call, row["SR"], host, lambda driver: driver.vdi_room(row["uuid"]), vdi=vdi)
