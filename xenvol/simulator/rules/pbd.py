"""PBD: create, plug, unplug, destroy (xapi_pbd.ml; message_forwarding.ml, module PBD; docs/background/xapi.md 2.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import attachment, backend, releases, secret, sr_hosts
from xenvol.simulator.rules.access import assert_storage_session
from xenvol.simulator.rules.operations import in_progress, mark, operation, retry, unmark
from xenvol.simulator.rules.sr_operations import update as update_sr_operations
from xenvol.simulator.rules.vdi_operations import is_active

if TYPE_CHECKING:
    from xenvol.simulator.database import Database
    from xenvol.simulator.rulebook import Call
    from xenvol.simulator.xapi import Xapi


@rule("PBD.create")
def create(call: Call, record: dict[str, Any]) -> str:
    """Create a PBD.

    The SR is checked, the host is not (trace 02#51-52); passwords become secrets before any check.
    """
    sr: str = record["SR"]
    config = secret.move_passwords(call, record["device_config"])
    with operation(call, ("SR", sr, "pbd_create")):
        return add(call, sr, record["host"], config)


def add(call: Call, sr: str, host: str, config: dict[str, str]) -> str:
    """Add the row, with secrets of its own; the caller's other_config is dropped (xapi_pbd.ml, create)."""
    db = call.db
    for pbd in db.children(sr, "PBDs"):
        if db.row("PBD", pbd)["host"] == host:
            raise Failure("PBD_EXISTS", sr, host, pbd)
    _assert_no_srmaster(config)
    return db.create("PBD", host=host, SR=sr, device_config=secret.duplicate(call, config))


@rule("PBD.destroy")
def destroy(call: Call, pbd: str) -> None:
    sr = call.db.row("PBD", pbd)["SR"]
    with operation(call, ("SR", sr, "pbd_destroy")):
        remove(call, pbd)


def remove(call: Call, pbd: str) -> None:
    """Delete the row and its secrets."""
    row = call.db.row("PBD", pbd)
    if row["currently_attached"]:
        raise Failure("OPERATION_NOT_ALLOWED", "PBD is currently attached")
    config = row["device_config"]
    call.db.delete("PBD", pbd)
    secret.drop(call, config)


@rule("PBD.set_device_config")
def set_device_config(call: Call, pbd: str, value: dict[str, str]) -> None:
    """Set the device_config, for drivers only; a client's passwords become secrets before it is refused."""
    config = secret.move_passwords(call, value)
    assert_storage_session(call, call.db.row("PBD", pbd)["SR"])
    _assert_no_srmaster(config)
    call.db.set("PBD", pbd, device_config=config)


@rule("PBD.plug")
def plug(call: Call, pbd: str) -> None:
    """Plug a PBD; idempotent. Plugging the pool master's PBD also refreshes the SR's sizes."""
    sr, host = call.db.row("PBD", pbd)["SR"], call.db.row("PBD", pbd)["host"]
    with operation(call, ("SR", sr, "plug")):
        row = call.db.row("PBD", pbd)
        sr_hosts.assert_live(call.xapi, host)
        backend.bind(call, pbd)
        if not row["currently_attached"]:
            _assert_sharable(call.db, sr, host)
            attachment.attach(call, sr, host)
            call.db.set("PBD", pbd, currently_attached=True)
            update_sr_operations(call.xapi, sr)
    if host == call.xapi.master:
        with backend.holding(call, "SR", host, call.db.row("SR", sr)["uuid"]):
            backend.run(call, sr, host, lambda driver: driver.update())


@rule("PBD.unplug")
def unplug(call: Call, pbd: str) -> None:
    """Unplug a PBD; idempotent. On the pool master it waits for operations on the SR's VDIs."""
    sr = call.db.row("PBD", pbd)["SR"]
    retry(call, lambda: _mark_for_unplug(call, sr))
    try:
        row = call.db.row("PBD", pbd)  # the row may have gone while this call waited
        host = row["host"]
        sr_hosts.assert_live(call.xapi, host)
        if row["currently_attached"]:
            _assert_not_needed_by_ha(call.xapi, pbd)
            if in_use := [vdi for vdi in _active_vdis(call.db, sr, host) if _blocks_unplug(call.db, vdi)]:
                raise Failure("VDI_IN_USE", *in_use)
            _retire_metadata(call.xapi, sr, host)
            attachment.detach(call, sr, host)
            call.db.set("PBD", pbd, currently_attached=False)
            update_sr_operations(call.xapi, sr)
    finally:
        unmark(call, "SR", sr)


def _mark_for_unplug(call: Call, sr: str) -> None:
    db = call.db
    db.row("SR", sr)
    if sr_hosts.srmaster(call.xapi, sr) == call.xapi.master:
        for vdi in db.children(sr, "VDIs"):
            for task, op in db.row("VDI", vdi)["current_operations"].items():
                raise in_progress("VDI", vdi, op, task)
    mark(call, "SR", sr, "unplug")


def _assert_no_srmaster(config: dict[str, str]) -> None:
    if "SRmaster" in config:
        text = "This key is for internal use only"
        raise Failure("VALUE_NOT_SUPPORTED", "SRmaster", config["SRmaster"], text)


def _assert_sharable(db: Database, sr: str, host: str) -> None:
    """Raise SR_NOT_SHARABLE if an SR that is not shared is plugged on another host."""
    if db.row("SR", sr)["shared"]:
        return
    for pbd in sr_hosts.plugged_pbds(db, sr):
        if (other := db.row("PBD", pbd)["host"]) != host:
            raise Failure("SR_NOT_SHARABLE", sr, other)


def _active_vdis(db: Database, sr: str, host: str) -> list[str]:
    """Return the SR's disks in the host's VMs; HANDLE_INVALID [VDI, ref] if one of those VMs has a disk without a row.

    That lasts until the garbage collector has removed the VBD (docs/background/recordings.md, finding 8
    (storage)).
    """
    vbds = [db.row("VBD", vbd) for vm in db.children(host, "resident_VMs") for vbd in db.children(vm, "VBDs")]
    vdis = [vbd["VDI"] for vbd in vbds if is_active(vbd) and not vbd["empty"]]
    return [vdi for vdi in vdis if db.row("VDI", vdi)["SR"] == sr]


def _blocks_unplug(db: Database, vdi: str) -> bool:
    return bool(db.row("VDI", vdi)["type"] != "metadata")


def _assert_not_needed_by_ha(xapi: Xapi, pbd: str) -> None:
    db = xapi.db
    pool = db.row("pool", db.first("pool") or "")
    if not pool["ha_enabled"]:
        return
    sr, host = db.row("PBD", pbd)["SR"], db.row("PBD", pbd)["host"]
    if db.row("host", host)["enabled"] and not pool["ha_allow_overcommit"]:
        disks = (vbd for vdi in db.children(sr, "VDIs") for vbd in db.children(vdi, "VBDs"))
        if any(_is_protected(db, db.row("VBD", vbd)["VM"]) for vbd in disks):
            if releases.since(xapi, releases.HA_NAMES_THE_SR):
                raise Failure("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr)
            raise Failure("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN")
    if any(db.exists("VDI", vdi) and db.row("VDI", vdi)["SR"] == sr for vdi in pool["ha_statefiles"]):
        raise Failure("HA_IS_ENABLED")


def _is_protected(db: Database, vm: str) -> bool:
    if not db.exists("VM", vm):
        return False
    row = db.row("VM", vm)
    return bool(row["ha_always_run"] and row["ha_restart_priority"] == "restart")


def _retire_metadata(xapi: Xapi, sr: str, host: str) -> None:
    """Mark other pools' databases in the SR as no longer the latest known."""
    if sr_hosts.srmaster(xapi, sr) != host:
        return
    db = xapi.db
    for vdi in db.children(sr, "VDIs"):
        row = db.row("VDI", vdi)
        if row["type"] == "metadata" and row["metadata_of_pool"] != db.first("pool"):
            db.set("VDI", vdi, metadata_latest=False)
