"""What the rules read from a VM's records: kind of domain, drivers, power state, guest.

Reads only. A dead reference raises HANDLE_INVALID, as in xapi's getters.
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
    """Return the domain type ``hvm``, ``pv``, ``pvh`` or ``pv_in_pvh``; for a halted VM, that of its next domain."""
    row = db.row("VM", vm)
    if row["power_state"] == "Halted":
        kind = row["domain_type"]
    else:
        kind = db.row("VM_metrics", row["metrics"])["current_domain_type"]
    if kind == "unspecified":
        raise internal_error("unspecified domain type")
    return str(kind)


def will_have_qemu(db: Database, vm: str) -> bool:
    """Return True if the VM's next domain is HVM."""
    return bool(db.row("VM", vm)["domain_type"] == "hvm")


def has_qemu(db: Database, vm: str) -> bool:
    """Return True if the VM's current domain is HVM."""
    return bool(db.row("VM_metrics", db.row("VM", vm)["metrics"])["current_domain_type"] == "hvm")


def is_system_domain(db: Database, vm: str) -> bool:
    """Return True for a control domain, or a VM marked as serving storage or networks (system_domains.ml)."""
    row = db.row("VM", vm)
    return bool(row["is_control_domain"] or row["other_config"].get("is_system_domain") == "true")


def is_true(text: str) -> bool:
    """Parse a switch in a string map (xapi_vm_lifecycle.ml, bool_of_assoc)."""
    return text == "1" or text.lower() == "true"


def is_dom0(db: Database, vm: str) -> bool:
    """Return True for the control domain of a host, not for other domains that serve storage."""
    row = db.row("VM", vm)
    home = row["resident_on"]
    return bool(
        row["is_control_domain"] and db.exists("host", home) and db.row("host", home)["control_domain"] == vm
    )


def guest_metrics(db: Database, vm: str) -> dict[str, Any] | None:
    """Return the guest's report; None if the guest has not reported."""
    ref = db.row("VM", vm)["guest_metrics"]
    return db.row("VM_guest_metrics", ref) if db.exists("VM_guest_metrics", ref) else None


def has_pv_drivers(metrics: dict[str, Any] | None) -> bool:
    """Return True if the drivers were detected, or the guest reported their version (xapi_pv_driver_version.ml)."""
    if metrics is None:
        return False
    if metrics["PV_drivers_detected"]:
        return True
    version = metrics["PV_drivers_version"]
    return all(version.get(part, "").isdigit() for part in ("major", "minor"))


def has_feature(metrics: dict[str, Any] | None, feature: str) -> bool:
    return metrics is not None and metrics["other"].get(feature) == "1"


def has_booted_pv(db: Database, vm: str) -> bool:
    """Return True if the VM's metrics prove that it booted PV."""
    ref = db.row("VM", vm)["metrics"]
    return db.exists("VM_metrics", ref) and db.row("VM_metrics", ref)["current_domain_type"] in (
        "pv",
        "pv_in_pvh",
        "pvh",
    )


def slots(db: Database, vm: str) -> list[str]:
    """Return the VM's VBDs in xapi's order: the newest first (trace 04#271)."""
    return db.children(vm, "VBDs")[::-1]


def vdis(db: Database, vm: str) -> list[str]:
    """Return the VDIs in the VM's VBDs, dangling ones included."""
    rows = [db.row("VBD", vbd) for vbd in slots(db, vm)]
    return [row["VDI"] for row in rows if not row["empty"]]


def suspend_vdi(db: Database, vm: str) -> str | None:
    """Return the disk that holds a suspended VM's memory, or None."""
    row = db.row("VM", vm)
    return row["suspend_VDI"] if row["power_state"] == "Suspended" and row["suspend_VDI"] != NULL else None


def ocaml_float(value: float) -> str:
    """Return a float as OCaml prints it: ``0.1``, ``2.``, ``nan``."""
    text = f"{value:.12g}"
    return f"{text}." if text.lstrip("-").isdigit() else text
