"""Which road there is to the disks of an SR, and of each that there is not the reason, before anything is made.

A control domain takes no disk that is a LUN (storage managers since 4.0 give it no address: facts/sm-truth.md, VBD on
LUN-per-VDI), and the HTTP door plugs the disk into a control domain, too: only a guest of the pool leads there.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, Literal

from xenvol.attaching.vm import VM, check_takes_disk, find_vm
from xenvol.errors import UnknownVM, VMError
from xenvol.images.errors import NoTransport
from xenvol.images.transfer_mark import Attempt
from xenvol.images.transports.base import TIMEOUTS, Timeouts, Transport
from xenvol.images.transports.block import DEV, BlockTransport
from xenvol.images.transports.http import NO_ENDPOINT, HTTPTransport
from xenvol.pool.view import Record, View
from xenvol.session import Endpoint
from xenvol.session.refs import NULL_REF, SRRef, is_uuid
from xenvol.storage.srtypes import sr_type_of

TransportName = Literal["auto", "http", "block"]

ROOT: Final = Path("/")
INVENTORY: Final = "etc/xensource-inventory"
KERNEL: Final = "sys/hypervisor"
"""``type`` and ``uuid``; with the uuid of zeros in a control domain."""
_CONTROL_DOMAIN = re.compile(r"^CONTROL_DOMAIN_UUID=['\"]?([0-9A-Fa-f-]{36})['\"]?\s*$", re.MULTILINE)


def choose_transport(
    view: View,
    sr_ref: SRRef,
    attempt: Attempt,
    *,
    wanted: TransportName = "auto",
    endpoint: Endpoint | None = None,
    root: Path = ROOT,
    dev: Path = DEV,
    timeouts: Timeouts = TIMEOUTS,
) -> Transport:
    """The road to the disks of this SR; `auto`: the block device where we run in the pool, else HTTP.

    `endpoint` is where a xapi of the pool listens, for a session that was logged in by somebody else; `root` is where
    the files lie that tell which VM this is. Two to five calls, and nothing made. Raises NoTransport.
    """
    sr_rec = view.record("SR", sr_ref)
    hosts = plugged_hosts(view, sr_rec)
    name = f"SR {sr_rec['name_label']} ({sr_rec['uuid']})"
    reasons: dict[str, str] = {}
    if wanted in ("auto", "block"):
        vm = find_own_vm(view, root=root)
        reason = _why_not_block(view, sr_rec, hosts, vm, dev)
        if vm is not None and reason is None:
            return BlockTransport(view, vm, attempt, dev=dev, timeouts=timeouts)
        reasons["block"] = reason or "this machine is no VM of the pool"
    if wanted in ("auto", "http"):
        session = view.session
        reason = _why_not_http(sr_rec, hosts, endpoint if endpoint is not None else session.endpoint)
        if reason is None:
            return HTTPTransport(view, session, endpoint=endpoint, timeouts=timeouts)
        reasons["http"] = reason
    raise NoTransport(name, reasons=reasons)


def plugged_hosts(view: View, sr_rec: Record) -> set[str]:
    """Return the hosts that have the SR plugged. One call, which reads the pool as well; none if both are known."""
    if any(view.known("PBD", ref) is None for ref in sr_rec["PBDs"]) or not view.remembered("pool"):
        view.read({"PBD": sr_rec["PBDs"]}, whole=("pool",))
    pbds = [pbd for ref in sr_rec["PBDs"] if (pbd := view.known("PBD", ref)) is not None]
    return {pbd["host"] for pbd in pbds if pbd["currently_attached"]}


def _why_not_http(sr_rec: Record, hosts: set[str], endpoint: Endpoint | None) -> str | None:
    if not hosts:
        return "the SR is plugged on no host; plug a PBD of it first"
    if not sr_type_of(sr_rec["type"]).in_control_domain:
        return (
            f"disks of type {sr_rec['type']} cannot be plugged into a control domain, as xapi does for it; "
            "run xenvol in a VM of the pool that takes disks"
        )
    if endpoint is None:
        return NO_ENDPOINT
    return None


def _why_not_block(view: View, sr_rec: Record, hosts: set[str], vm: VM | None, dev: Path) -> str | None:
    if not hosts:
        return "the SR is plugged on no host; plug a PBD of it first"
    if vm is None:
        return "this machine is no VM of the pool"
    if not os.access(dev, os.W_OK):
        return f"who runs xenvol has no right to the devices in {dev}; run it as root"
    if vm.resident_on not in hosts:
        return f"the SR is not plugged on the host of VM {vm}, in which we run"
    if view.record("VM", vm.ref)["is_control_domain"]:
        if not sr_type_of(sr_rec["type"]).in_control_domain:
            return (
                f"disks of type {sr_rec['type']} cannot be plugged into a control domain, in which we run; "
                "run xenvol in another VM of the pool"
            )
        return None
    try:
        has_metrics = vm.is_hvm and vm.guest_metrics_ref != NULL_REF
        metrics = view.record("VM_guest_metrics", vm.guest_metrics_ref) if has_metrics else None
        check_takes_disk(vm, metrics, mode="RW", will_plug=True)
    except VMError as error:
        return str(error)
    return None


# ---- which VM this machine is


def own_uuid(root: Path = Path("/")) -> str | None:
    """The uuid of the VM that this is; None where it is none of Xen's."""
    inventory = _read(root / INVENTORY)
    if (found := _CONTROL_DOMAIN.search(inventory)) is not None and is_uuid(found[1]):
        return found[1].lower()
    uuid = _read(root / KERNEL / "uuid").strip().lower()
    is_xen = _read(root / KERNEL / "type").strip() in ("", "xen")
    return uuid if is_xen and is_uuid(uuid) and uuid.strip("0-") else None


def find_own_vm(view: View, *, root: Path = Path("/")) -> VM | None:
    """The VM in which we run; None where this is no VM of the pool. One call, none where it is no VM at all.

    One that does not run is not this one: the pool has a copy of it, or this is what became of one that it had.
    """
    uuid = own_uuid(root)
    if uuid is None:
        return None
    try:
        vm = find_vm(view, uuid)
    except UnknownVM:
        return None
    return vm if vm.is_running and not vm.is_template else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
