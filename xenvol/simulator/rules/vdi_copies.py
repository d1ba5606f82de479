"""Derive a VDI from another: snapshot, clone, copy, and moving to another SR (xapi_vdi.ml)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenvol.simulator import tasks
from xenvol.simulator.failure import Failure, internal_error
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import backend, datapath, sr_hosts, vdi_rows
from xenvol.simulator.rules.nested import invoke
from xenvol.simulator.rules.operations import operation, unmark, update_allowed_operations
from xenvol.simulator.rules.vdi_life import assert_usable, by_uuid
from xenvol.simulator.sm.sparse import sparse_copy

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call
    from xenvol.simulator.sm.base import Driver, VDIInfo

_INHERITED = (
    *("name_label", "name_description", "type", "sharable", "other_config"),
    *("xenstore_data", "on_boot", "allow_caching"),
)
"""What xapi copies to a snapshot or a clone; tags are not copied.

docs/background/recordings.md, contradiction 3.
"""


@rule("VDI.snapshot")
def snapshot(call: Call, vdi: str, driver_params: dict[str, str]) -> str:
    sr = call.db.row("VDI", vdi)["SR"]
    with operation(call, ("SR", sr, "vdi_snapshot"), ("VDI", vdi, "snapshot")):
        host = sr_hosts.host_for_sr(call.xapi, sr)
        try:
            copied = _derive(
                call,
                vdi,
                host,
                lambda driver, uuid: driver.vdi_snapshot(uuid),
                driver_params,
                is_a_snapshot=True,
                fault=backend.SNAPSHOT_FAULT,
            )
        except backend.Unimplemented:
            raise Failure("UNIMPLEMENTED_IN_SM_BACKEND", sr) from None
        # a disk whose changes are tracked has a log, which a snapshot continues (sm, VDI.py, _cbt_snapshot)
        tracked = bool(call.db.row("VDI", vdi)["cbt_enabled"])
        call.db.set("VDI", copied, is_a_snapshot=True, snapshot_of=vdi, cbt_enabled=tracked)
        update_allowed_operations(call.xapi, "VDI", copied)
        return copied


@rule("VDI.clone")
def clone(call: Call, vdi: str, driver_params: dict[str, str]) -> str:
    """Clone a VDI. If the driver cannot clone this disk, copy it; other calls may then work on the SR meanwhile.

    The clone's allowed_operations are those of a disk without the source's properties, because xapi does not
    compute them again after it has copied the properties (xapi_vdi.ml, clone).
    """
    sr = call.db.row("VDI", vdi)["SR"]
    with operation(call, ("SR", sr, "vdi_clone"), ("VDI", vdi, "clone")):
        host = sr_hosts.host_for_sr(call.xapi, sr)
        try:
            return _derive(
                call,
                vdi,
                host,
                lambda driver, uuid: driver.vdi_clone(uuid),
                driver_params,
                is_a_snapshot=False,
                fault=backend.CLONE_FAULT,
            )
        except backend.Unimplemented:
            unmark(call, "SR", sr)
            unmark(call, "VDI", vdi)
            return _copy_to_new(call, vdi, sr, host, read_only=call.db.row("VDI", vdi)["read_only"])


def _derive(
    call: Call,
    vdi: str,
    host: str,
    command: Callable[[Driver, str], VDIInfo],
    driver_params: dict[str, str],
    *,
    is_a_snapshot: bool,
    fault: int,
) -> str:
    assert_usable(call, vdi, host)
    db = call.db
    row = db.row("VDI", vdi)
    inherited = {name: db.get("VDI", vdi, name) for name in _INHERITED}
    info = backend.run(
        call,
        row["SR"],
        host,
        lambda driver: command(driver, row["uuid"]),
        fault=fault,
        vdi=vdi,
        on_srmaster=True,
    )
    copied = by_uuid(call, info.uuid)
    if "base_mirror" in driver_params:
        db.map_add("VDI", copied, "sm_config", "base_mirror", driver_params["base_mirror"])
    db.set("VDI", copied, is_a_snapshot=is_a_snapshot, snapshot_time=call.xapi.now())
    vdi_rows.refresh(db, copied)
    db.set("VDI", copied, **inherited)
    return copied


@rule("VDI.copy")
def copy(call: Call, vdi: str, sr: str, _base_vdi: str, into_vdi: str) -> str:
    """Copy into an existing VDI, or into a new one in the SR, which is destroyed on failure."""
    db = call.db
    source_sr = db.row("VDI", vdi)["SR"]
    with operation(call, ("VDI", vdi, "copy")):
        host = _host_for_copy(call, source_sr, sr)
        if not db.row("VDI", vdi)["managed"]:
            raise Failure("VDI_NOT_MANAGED", vdi)
        if not db.exists("VDI", into_vdi):
            return _copy_to_new(call, vdi, sr, host, read_only=False)
        _fill(call, vdi, into_vdi, host)
        return into_vdi


def _host_for_copy(call: Call, source_sr: str, sr: str) -> str:
    """Return a host that sees both SRs, or else one that sees the source; a member is preferred to the master."""
    db = call.db
    sees = {
        each: {db.row("PBD", p)["host"] for p in sr_hosts.plugged_pbds(db, each)} for each in (source_sr, sr)
    }
    live = [host for host in db.refs("host") if sr_hosts.is_live(db, host) and host in sees[source_sr]]
    live.sort(key=lambda host: (host not in sees[sr], host == call.xapi.master))
    if not live:
        raise internal_error("Not_found")
    return live[0]


def _copy_to_new(call: Call, vdi: str, sr: str, host: str, *, read_only: bool) -> str:
    db = call.db
    kept = (*_INHERITED[:-2], "virtual_size", "tags")
    spec: dict[str, Any] = {name: db.get("VDI", vdi, name) for name in kept}
    new: str = invoke(call, "VDI.create", {**spec, "SR": sr, "read_only": read_only, "sm_config": {}})
    try:
        db.set("VDI", new, allow_caching=db.row("VDI", vdi)["allow_caching"])
        _fill(call, vdi, new, host)
    except BaseException:
        invoke(call, "VDI.destroy", new)
        raise
    return new


def _fill(call: Call, vdi: str, target: str, host: str) -> None:
    """Write one disk's bytes into another's, as dom0 does with both of them plugged."""
    db = call.db
    size = db.row("VDI", vdi)["virtual_size"]
    if db.row("VDI", target)["read_only"]:
        raise Failure("VDI_READONLY", target)
    if db.row("VDI", target)["virtual_size"] < size:
        raise Failure("VDI_TOO_SMALL", target, str(size))
    target_host = (
        host if _sees(call, target, host) else sr_hosts.host_for_sr(call.xapi, db.row("VDI", target)["SR"])
    )
    for disk in (vdi, target):
        datapath.assert_nbd(call, disk)
    source, sink = datapath.content(call, host, vdi), datapath.content(call, target_host, target)
    call.outside(lambda: sparse_copy(source, sink, tasks.tell_progress(call)))
    update_allowed_operations(call.xapi, "VDI", target)


def _sees(call: Call, vdi: str, host: str) -> bool:
    pbds = sr_hosts.plugged_pbds(call.db, call.db.row("VDI", vdi)["SR"])
    return any(call.db.row("PBD", pbd)["host"] == host for pbd in pbds)


@rule("VDI.pool_migrate")
def pool_migrate(call: Call, vdi: str, sr: str, _options: dict[str, str]) -> str:
    """Move a VM's disk to another SR of the pool: the VM's VBDs get the new VDI, and the old one is destroyed."""
    db = call.db
    vbds = db.children(vdi, "VBDs")
    if not vbds:
        raise Failure("VDI_NEEDS_VM_FOR_MIGRATE", vdi)
    vm = db.row("VBD", vbds[0])["VM"]
    with operation(call, ("VM", vm, "migrate_send")), operation(call, ("VDI", vdi, "mirror")):
        host = sr_hosts.host_for_sr(call.xapi, db.row("VDI", vdi)["SR"])
        moved = _copy_to_new(call, vdi, sr, host, read_only=False)
        for vbd in vbds:
            db.set("VBD", vbd, VDI=moved)
        invoke(call, "VDI.destroy", vdi)
        update_allowed_operations(call.xapi, "VDI", moved)
        return moved
