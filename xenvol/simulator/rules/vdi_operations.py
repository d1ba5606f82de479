"""Which operations a VDI allows now, and which operations wait for each other.

The order of the checks is xapi's (xapi_vdi.ml, check_operation_error): another operation, a plugged or busy
VBD, the driver's features, the VDI's own properties. allowed_operations is written after an operation on the
VDI, not when its SR changes, so it may be stale, as in a real pool (trace 02#103).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.failure import Failure
from xenvol.simulator.rules import releases, sr_hosts
from xenvol.simulator.rules.operations import DISCIPLINES, Discipline, in_progress
from xenvol.simulator.rules.sr_operations import features

if TYPE_CHECKING:
    from xenvol.simulator.database import Database, Row
    from xenvol.simulator.xapi import Xapi

NEEDED_FEATURES = {
    "snapshot": "VDI_SNAPSHOT",
    "destroy": "VDI_DELETE",
    "resize": "VDI_RESIZE",
    "update": "VDI_UPDATE",
    "resize_online": "VDI_RESIZE_ONLINE",
    "generate_config": "VDI_GENERATE_CONFIG",
    "clone": "VDI_CLONE",
    "mirror": "VDI_MIRROR",
    "enable_cbt": "VDI_CONFIG_CBT",
    "disable_cbt": "VDI_CONFIG_CBT",
    "data_destroy": "VDI_CONFIG_CBT",
    "list_changed_blocks": "VDI_CONFIG_CBT",
    "set_on_boot": "VDI_RESET_ON_BOOT",
}
LISTED = (
    *("clone", "copy", "resize", "resize_online", "snapshot"),
    *("destroy", "forget", "update", "generate_config"),
)
"""The operations that allowed_operations may list: none that old releases do not know (CA-260245)."""

TYPE_NAMES = {
    "system": "System",
    "user": "User",
    "ephemeral": "Ephemeral",
    "suspend": "Suspend",
    "crashdump": "Crashdump",
    "ha_statefile": "HA statefile",
    "metadata": "Metadata",
    "redo_log": "Redo log",
    "rrd": "rrd",
    "pvs_cache": "PVS cache",
    "cbt_metadata": "CBT metadata",
}
"""The type's name in VDI_INCOMPATIBLE_TYPE."""

_LIVE = frozenset(
    ("snapshot", "resize_online", "blocked", "clone", "mirror", "enable_cbt", "disable_cbt", "data_destroy")
)
"""Operations that are possible while the VDI is plugged."""
_LIVE_BESIDE_READERS = _LIVE | {"copy"}
_NOT_FOR_CBT_METADATA = frozenset(
    (
        "clone",
        "copy",
        "disable_cbt",
        "enable_cbt",
        "mirror",
        "resize",
        "resize_online",
        "snapshot",
        "set_on_boot",
    )
)
_NOT_WITH_CBT = frozenset(("mirror", "set_on_boot"))
_HA_TYPES = frozenset(("ha_statefile", "redo_log"))
_ONCE_GUARDED = frozenset(("ha_statefile", "metadata"))


def refusal(xapi: Xapi, vdi: str, operation: str) -> Failure | None:
    """Return what forbids the operation now, or None; HANDLE_INVALID if the VDI or its SR does not exist."""
    db = xapi.db
    row = db.row("VDI", vdi)
    sr = db.row("SR", row["SR"])
    if (conflict := _conflict(vdi, row["current_operations"], operation)) is not None:
        return conflict
    if operation == "resize" and not sr_hosts.plugged_pbds(db, row["SR"]):
        return Failure("SR_HAS_NO_PBDS", row["SR"])
    if (use := _use(db, vdi, operation)) is not None:
        return use
    needed = NEEDED_FEATURES.get(operation)
    if needed is not None and needed not in features(db, sr["type"]):
        return Failure("SR_OPERATION_NOT_SUPPORTED", row["SR"])
    if row["type"] == "cbt_metadata" and operation in _NOT_FOR_CBT_METADATA:
        return Failure("VDI_INCOMPATIBLE_TYPE", vdi, TYPE_NAMES["cbt_metadata"])
    if row["cbt_enabled"] and operation in _NOT_WITH_CBT:
        return Failure("VDI_CBT_ENABLED", vdi)
    return _by_nature(xapi, vdi, row, sr, operation)


def check(xapi: Xapi, vdi: str, operation: str) -> None:
    if (failure := refusal(xapi, vdi, operation)) is not None:
        raise failure


def update(xapi: Xapi, vdi: str) -> None:
    allowed = [operation for operation in LISTED if refusal(xapi, vdi, operation) is None]
    xapi.db.set("VDI", vdi, allowed_operations=allowed)


def is_active(vbd: Row) -> bool:
    """Return True if the VBD is in use or is being plugged."""
    return bool(vbd["currently_attached"] or vbd["reserved"])


def _conflict(vdi: str, current: dict[str, str], operation: str) -> Failure | None:
    """Return the conflict with another operation; only a copy excludes none, and destroy may interrupt a mirror."""
    if operation == "destroy" and "mirror" in current.values():
        return None
    in_the_way = [(op, task) for task, op in current.items() if op != "copy"]
    return next((in_progress("VDI", vdi, op, task) for op, task in in_the_way), None)


def _use(db: Database, vdi: str, operation: str) -> Failure | None:
    vbds = [db.row("VBD", vbd) for vbd in db.children(vdi, "VBDs")]
    active = [vbd for vbd in vbds if is_active(vbd)]
    if operation in _LIVE:
        is_blocked = False
    elif operation in _LIVE_BESIDE_READERS:
        is_blocked = any(vbd["mode"] == "RW" for vbd in active)
    else:
        is_blocked = bool(active)
    if is_blocked and not (operation == "list_changed_blocks" and _all_of_snapshots(db, active)):
        return Failure("VDI_IN_USE", vdi, operation)
    if operation != "data_destroy":
        for vbd in vbds:
            for task, op in vbd["current_operations"].items():
                return in_progress("VDI", vdi, op, task)
    return None


def _all_of_snapshots(db: Database, vbds: list[Row]) -> bool:
    """Return True if all VBDs belong to snapshots: a checkpoint's VBDs look plugged and are not."""
    return all(db.exists("VM", vbd["VM"]) and db.row("VM", vbd["VM"])["is_a_snapshot"] for vbd in vbds)


def _by_nature(xapi: Xapi, vdi: str, row: Row, sr: Row, operation: str) -> Failure | None:
    is_of_ha = row["type"] in _HA_TYPES
    pool = xapi.db.row("pool", xapi.db.first("pool") or "")
    is_kept_by_ha = is_of_ha and pool["ha_enabled"]
    match operation:
        case "forget":
            if is_kept_by_ha:
                return Failure("HA_IS_ENABLED")
            return Failure("VDI_HAS_RRDS", vdi) if row["type"] == "rrd" else None
        case "destroy":
            return _destruction(xapi, vdi, row, sr, pool)
        case "data_destroy":
            if not row["is_a_snapshot"]:
                return Failure("OPERATION_NOT_ALLOWED", f"VDI is not a snapshot: {vdi}")
            if not row["cbt_enabled"]:
                return Failure("VDI_NO_CBT_METADATA", vdi)
            return _destruction(xapi, vdi, row, sr, pool)
        case "resize" | "resize_online":
            return Failure("HA_IS_ENABLED") if is_kept_by_ha else None
        case "snapshot" if row["sharable"]:
            return Failure("VDI_IS_SHARABLE", vdi)
        case "snapshot" | "copy" if row["on_boot"] == "reset":
            return Failure("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
        case "snapshot" if "copy" in row["current_operations"].values():
            return Failure("OPERATION_NOT_ALLOWED", "Snapshot operation not allowed during copy.")
        case "copy" if is_of_ha:
            text = (
                "VDI containing HA statefile or redo log cannot be copied "
                "(check the VDI's allowed operations)."
            )
            return Failure("OPERATION_NOT_ALLOWED", text)
        case "enable_cbt" | "disable_cbt":
            if row["is_a_snapshot"]:
                return Failure("OPERATION_NOT_ALLOWED", f"VDI is a snapshot: {vdi}")
            if row["type"] not in ("user", "system"):
                return Failure("VDI_INCOMPATIBLE_TYPE", vdi, TYPE_NAMES[row["type"]])
            if row["on_boot"] == "reset":
                return Failure("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
    return None


def _destruction(xapi: Xapi, vdi: str, row: Row, sr: Row, pool: Row) -> Failure | None:
    if sr["type"] == "udev":
        return Failure("VDI_IS_A_PHYSICAL_DEVICE", vdi)
    if sr["is_tools_sr"]:
        return Failure("SR_OPERATION_NOT_SUPPORTED", row["SR"])
    if row["type"] == "rrd":
        return Failure("VDI_HAS_RRDS", vdi)
    if row["type"] in _HA_TYPES and pool["ha_enabled"]:
        return Failure("HA_IS_ENABLED")
    guarded = _HA_TYPES if releases.since(xapi, releases.HA_GUARDS_REDO_LOGS) else _ONCE_GUARDED
    if row["type"] in guarded:
        for operation in ("ha_enable", "ha_disable"):
            if operation in pool["current_operations"].values():
                return Failure(f"{operation.upper()}_IN_PROGRESS")
    return None


DISCIPLINES["VDI"] = Discipline(check, update)
