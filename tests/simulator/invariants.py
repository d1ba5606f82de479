"""Invariants of every pool, after any calls; each function yields the violations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xenvol.simulator.database import Database
from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rules import sr_operations, vbd_operations, vdi_operations, vm_operations
from xenvol.simulator.xapi import Xapi

LIVE = ("Running", "Paused")
MARKED = ("SR", "VDI", "VBD", "VM", "VIF")
OWNERS = (("VBD", "VM"), ("VDI", "SR"), ("PBD", "SR"), ("VIF", "VM"))
"""Objects that must not outlive their owner: VBDs may outlive their VDI, not their VM."""


def violations(xapi: Xapi) -> list[str]:
    """Return every violation; no call may be under way."""
    db = xapi.db
    checks = (_torn_relations, _orphans, _marks, _powers, _attachments, _sizes, _secrets)
    found = [text for check in checks for text in check(db)]
    return [*found, *_domains(xapi)]


def stale(xapi: Xapi, cls: str, ref: str) -> str:
    """Return how an object's allowed_operations differ from what it would allow now; empty if they do not."""
    before = xapi.db.get(cls, ref, "allowed_operations")
    now = _allowed(xapi, cls, ref)
    return (
        "" if set(before) == set(now) else f"{cls} {ref} allows {sorted(set(before) ^ set(now))} or does not"
    )


def _allowed(xapi: Xapi, cls: str, ref: str) -> list[str]:
    match cls:
        case "SR":
            return [op for op in sr_operations.OPERATIONS if sr_operations.refusal(xapi, ref, op) is None]
        case "VDI":
            return [op for op in vdi_operations.LISTED if vdi_operations.refusal(xapi, ref, op) is None]
        case "VBD":
            return vbd_operations.refusals(xapi, ref, check_sharing=False).allowed
    return [op for op in vm_operations.operations(xapi) if _vm_allows(xapi, ref, op)]


def _vm_allows(xapi: Xapi, vm: str, operation: str) -> bool:
    try:
        vm_operations.check(xapi, vm, operation)
    except Failure:
        return False
    return True


def _torn_relations(db: Database) -> Iterator[str]:
    """Both sides of a relation agree."""
    for child, field, parent, members in db.model.relations:
        if not {child, parent} <= db.model.classes.keys() or field not in db.model.classes[child].fields:
            continue
        expected: dict[str, set[str]] = {}
        for ref in db.refs(child):
            value = db.row(child, ref)[field]
            for target in value if isinstance(value, list) else [value]:
                expected.setdefault(target, set()).add(ref)
        for target in db.refs(parent):
            listed = db.get(parent, target, members)
            if set(listed) != expected.get(target, set()) or len(set(listed)) != len(listed):
                yield f"{parent}.{members} of {target} is not what {child}.{field} says"


def _orphans(db: Database) -> Iterator[str]:
    for cls, field in OWNERS:
        for ref in db.refs(cls):
            if not db.exists(field, db.row(cls, ref)[field]):
                yield f"{cls} {ref} has no {field}"


def _marks(db: Database) -> Iterator[str]:
    for cls in MARKED:
        for ref in db.refs(cls):
            if marks := db.row(cls, ref)["current_operations"]:
                yield f"{cls} {ref} is still marked: {marks}"


def _powers(db: Database) -> Iterator[str]:
    """A running VM has a host, and any other VM has none."""
    for vm, row in _guests(db):
        is_live = row["power_state"] in LIVE
        if is_live != db.exists("host", row["resident_on"]) or is_live != (row["domid"] != -1):
            yield f"VM {vm} is {row['power_state']} on {row['resident_on']}, domain {row['domid']}"
        if row["scheduled_to_be_resident_on"] != NULL:
            yield f"VM {vm} still has a host in store"


def _attachments(db: Database) -> Iterator[str]:
    """A plugged disk belongs to a VM that runs or is suspended; a snapshot with memory counts as suspended."""
    for vbd in db.refs("VBD"):
        row = db.row("VBD", vbd)
        vm = db.row("VM", row["VM"])
        if row["currently_attached"] and vm["power_state"] == "Halted":
            yield f"VBD {vbd} is attached to a VM that is halted"
        if row["empty"] != (row["VDI"] == NULL):
            yield f"VBD {vbd} is empty: {row['empty']}, and holds {row['VDI']}"


def _sizes(db: Database) -> Iterator[str]:
    for sr in db.refs("SR"):
        if db.row("SR", sr)["virtual_allocation"] < 0:
            yield f"SR {sr} has a negative virtual_allocation"


def _secrets(db: Database) -> Iterator[str]:
    """No device_config has a password."""
    for pbd in db.refs("PBD"):
        if any(key.endswith("password") for key in db.row("PBD", pbd)["device_config"]):
            yield f"PBD {pbd} shows a password"


def _domains(xapi: Xapi) -> Iterator[str]:
    """xapi's view of every domain is that of its hypervisor."""
    for vm, row in _guests(xapi.db):
        if row["power_state"] not in LIVE:
            if vm in xapi.domains:
                yield f"VM {vm} is {row['power_state']} and has a domain"
            continue
        slots = [xapi.db.row("VBD", vbd) for vbd in xapi.db.children(vm, "VBDs")]
        believed = {slot["device"]: slot["VDI"] for slot in slots if slot["currently_attached"]}
        if vm in xapi.domains and xapi.domains[vm].disks != believed:
            yield f"VM {vm} has {xapi.domains[vm].disks}, xapi believes {believed}"


def _guests(db: Database) -> Iterator[tuple[str, dict[str, Any]]]:
    for vm in db.refs("VM"):
        if not db.row("VM", vm)["is_control_domain"]:
            yield vm, db.row("VM", vm)
