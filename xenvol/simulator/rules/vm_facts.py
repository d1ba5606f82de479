"""What the rules ask of a VM's records: its kind of domain, its drivers, whether it runs, which guest answers.

Reads only. A dead reference on the way raises HANDLE_INVALID, as the getters of xapi do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import NULL, internal_error

if TYPE_CHECKING:
    from xenvol.simulator.database import Database

LIVE = ("Running", "Paused")
"""The power states of a VM that has a domain on a host (xapi_vm_lifecycle_helpers.ml, is_live)."""


def power_state(db: Database, vm: str) -> str:
    return str(db.row("VM", vm)["power_state"])


def is_live(db: Database, vm: str) -> bool:
    return power_state(db, vm) in LIVE


def domain_type(db: Database, vm: str) -> str:
    """``hvm``, ``pv``, ``pvh`` or ``pv_in_pvh``: what it runs as, or, when halted, would run as."""
    row = db.row("VM", vm)
    if row["power_state"] == "Halted":
        kind = row["domain_type"]
    else:
        kind = db.row("VM_metrics", row["metrics"])["current_domain_type"]
    if kind == "unspecified":
        raise internal_error("unspecified domain type")
    return str(kind)


def will_have_qemu(db: Database, vm: str) -> bool:
    """Whether its next domain is HVM."""
    return bool(db.row("VM", vm)["domain_type"] == "hvm")


def has_qemu(db: Database, vm: str) -> bool:
    """Whether its domain is HVM."""
    return bool(db.row("VM_metrics", db.row("VM", vm)["metrics"])["current_domain_type"] == "hvm")


def is_system_domain(db: Database, vm: str) -> bool:
    """A control domain, or a VM that says of itself that it serves storage or networks (system_domains.ml)."""
    row = db.row("VM", vm)
    return bool(row["is_control_domain"] or row["other_config"].get("is_system_domain") == "true")


def is_true(text: str) -> bool:
    """How a switch in a string map reads (xapi_vm_lifecycle.ml, bool_of_assoc)."""
    return text == "1" or text.lower() == "true"


def is_dom0(db: Database, vm: str) -> bool:
    """The control domain of some host, not any other domain that serves storage."""
    row = db.row("VM", vm)
    home = row["resident_on"]
    return bool(
        row["is_control_domain"] and db.exists("host", home) and db.row("host", home)["control_domain"] == vm
    )


def guest_metrics(db: Database, vm: str) -> dict[str, Any] | None:
    """What the guest reported; None for a VM whose guest has not."""
    ref = db.row("VM", vm)["guest_metrics"]
    return db.row("VM_guest_metrics", ref) if db.exists("VM_guest_metrics", ref) else None


def has_pv_drivers(metrics: dict[str, Any] | None) -> bool:
    """Whether they were seen, or the guest named their version (xapi_pv_driver_version.ml)."""
    if metrics is None:
        return False
    if metrics["PV_drivers_detected"]:
        return True
    version = metrics["PV_drivers_version"]
    return all(version.get(part, "").isdigit() for part in ("major", "minor"))


def has_feature(metrics: dict[str, Any] | None, feature: str) -> bool:
    return metrics is not None and metrics["other"].get(feature) == "1"


def has_booted_pv(db: Database, vm: str) -> bool:
    """Certain only where there are metrics that say so."""
    ref = db.row("VM", vm)["metrics"]
    return db.exists("VM_metrics", ref) and db.row("VM_metrics", ref)["current_domain_type"] in (
        "pv",
        "pv_in_pvh",
        "pvh",
    )


def slots(db: Database, vm: str) -> list[str]:
    """The VM's VBDs in the order in which xapi goes through them: the newest first (trace 04#271)."""
    return db.children(vm, "VBDs")[::-1]


def vdis(db: Database, vm: str) -> list[str]:
    """The VDIs that a VM needs: of its slots that are not empty, dangling ones included."""
    rows = [db.row("VBD", vbd) for vbd in slots(db, vm)]
    return [row["VDI"] for row in rows if not row["empty"]]


def suspend_vdi(db: Database, vm: str) -> str | None:
    """The disk that holds a suspended VM's memory."""
    row = db.row("VM", vm)
    return row["suspend_VDI"] if row["power_state"] == "Suspended" and row["suspend_VDI"] != NULL else None


def ocaml_float(value: float) -> str:
    """How OCaml prints a float: ``0.1``, ``2.``, ``nan``."""
    text = f"{value:.12g}"
    return f"{text}." if text.lstrip("-").isdigit() else text
