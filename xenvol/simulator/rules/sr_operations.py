"""Which operations an SR allows now, and which operations wait for each other.

The order of the checks is xapi's (xapi_sr_operations.ml, valid_operations): the driver's features, plugged
PBDs, no PBD, managed VDIs, another operation. The first check that forbids an operation decides the error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenvol.simulator.failure import Failure
from xenvol.simulator.rules import sr_hosts
from xenvol.simulator.rules.operations import DISCIPLINES, Discipline, in_progress

if TYPE_CHECKING:
    from xenvol.simulator.database import Database, Row
    from xenvol.simulator.xapi import Xapi

NEEDED_FEATURES = {
    "vdi_create": "VDI_CREATE",
    "vdi_destroy": "VDI_DELETE",
    "vdi_resize": "VDI_RESIZE",
    "vdi_introduce": "VDI_INTRODUCE",
    "vdi_mirror": "VDI_MIRROR",
    "vdi_enable_cbt": "VDI_CONFIG_CBT",
    "vdi_disable_cbt": "VDI_CONFIG_CBT",
    "vdi_data_destroy": "VDI_CONFIG_CBT",
    "vdi_list_changed_blocks": "VDI_CONFIG_CBT",
    "vdi_set_on_boot": "VDI_RESET_ON_BOOT",
    "update": "SR_UPDATE",
    "vdi_snapshot": "VDI_SNAPSHOT",
}
OPERATIONS = (
    *("scan", "destroy", "forget", "plug", "unplug"),
    *("vdi_create", "vdi_destroy", "vdi_resize", "vdi_clone", "vdi_snapshot", "vdi_mirror"),
    *("vdi_enable_cbt", "vdi_disable_cbt", "vdi_data_destroy", "vdi_list_changed_blocks"),
    *("vdi_set_on_boot", "vdi_introduce", "update", "pbd_create", "pbd_destroy"),
)
"""The operations that allowed_operations may list."""

_MAY_RUN_TOGETHER = "plug"  # only with itself


def features(db: Database, sr_type: str) -> dict[str, int]:
    """Return the features of an SR type's driver; empty if the pool has no such type."""
    for sm in db.refs("SM"):
        if (row := db.row("SM", sm))["type"] == sr_type:
            known: dict[str, int] = row["features"]
            return known
    return {}


def refusal(xapi: Xapi, sr: str, operation: str) -> Failure | None:
    """Return what forbids the operation now, or None."""
    db = xapi.db
    row = db.row("SR", sr)
    needed = NEEDED_FEATURES.get(operation)
    if needed is not None and not _has_feature(db, row, needed):
        return Failure("SR_OPERATION_NOT_SUPPORTED", sr)
    if operation in ("destroy", "forget") and sr_hosts.plugged_pbds(db, sr):
        return Failure("SR_HAS_PBD", sr)
    if operation == "destroy":
        if not db.children(sr, "PBDs"):
            return Failure("SR_HAS_NO_PBDS", sr)
        if any(_counts(db.row("VDI", vdi)) for vdi in db.each_child(sr, "VDIs")):
            return Failure("SR_NOT_EMPTY")
    return _conflict(sr, row["current_operations"], operation)


def check(xapi: Xapi, sr: str, operation: str) -> None:
    if (failure := refusal(xapi, sr, operation)) is not None:
        raise failure


def update(xapi: Xapi, sr: str) -> None:
    allowed = [operation for operation in OPERATIONS if refusal(xapi, sr, operation) is None]
    xapi.db.set("SR", sr, allowed_operations=allowed)


def _has_feature(db: Database, sr: Row, feature: str) -> bool:
    if sr["is_tools_sr"] and feature in ("VDI_CREATE", "VDI_DELETE"):
        return False
    return feature in features(db, sr["type"])


def _counts(vdi: Row) -> bool:
    """Return True if a VDI prevents the destruction of its SR."""
    return bool(vdi["managed"] and vdi["type"] != "rrd")


def _conflict(sr: str, current: dict[str, str], operation: str) -> Failure | None:
    in_the_way = {
        task: op for task, op in current.items() if operation != _MAY_RUN_TOGETHER or op != _MAY_RUN_TOGETHER
    }
    return next((in_progress("SR", sr, op, task) for task, op in in_the_way.items()), None)


DISCIPLINES["SR"] = Discipline(check, update)
