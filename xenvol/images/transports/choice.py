"""Choose the transport to the disks of an SR before xenvol makes anything, or say why each transport is not
possible.

A control domain cannot plug a disk that is a LUN: storage managers since 4.0 give it no address there
(docs/background/recordings.md, VBD on LUN-per-VDI). xapi's HTTP handler plugs the disk into a control domain, too.
So only a guest of the pool reaches such a disk.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, Literal

from xenvol.attaching.vm import VM, check_takes_disk, find_vm
from xenvol.errors import UnknownVM, VMError
from xenvol.images.errors import NoTransport
from xenvol.images.transports.base import TIMEOUTS, Timeouts, Transport
from xenvol.images.transports.block import DEV, BlockTransport
from xenvol.images.transports.http import NO_ENDPOINT, HTTPTransport
from xenvol.pool.transfer_mark import Attempt
from xenvol.pool.view import Record, View
from xenvol.session import Endpoint
from xenvol.session.refs import NULL_REF, SRRef, is_uuid
from xenvol.storage.srtypes import sr_type_of

TransportName = Literal["auto", "http", "block"]

ROOT: Final = Path("/")
INVENTORY: Final = "etc/xensource-inventory"
KERNEL: Final = "sys/hypervisor"
"""The directory of ``type`` and ``uuid``; in a control domain the uuid is zeros."""
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
    """Return the transport to the disks of this SR. Raises NoTransport, with the reason for each.

    `auto` takes the block device if this machine is a VM of the pool, else HTTP. `endpoint` is a host of the pool, for
    a session that the caller logged in without xenvol. `root` is the directory of the files that say which VM this
    machine is. Two to five calls; changes nothing.
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
    if len(view.known_of("PBD", sr_rec["PBDs"])) < len(sr_rec["PBDs"]) or not view.remembered("pool"):
        view.read({"PBD": sr_rec["PBDs"]}, whole=("pool",))
    pbds = view.known_of("PBD", sr_rec["PBDs"]).values()
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
        return f"this user may not write to the devices in {dev}; run xenvol as root"
    if vm.resident_on not in hosts:
        return f"the SR is not plugged on the host of VM {vm}, in which xenvol runs"
    if view.record("VM", vm.ref)["is_control_domain"]:
        if not sr_type_of(sr_rec["type"]).in_control_domain:
            return (
                f"disks of type {sr_rec['type']} cannot be plugged into a control domain, in which xenvol runs; "
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
    """Return the uuid of the VM that this machine is; None outside Xen."""
    inventory = _read(root / INVENTORY)
    if (found := _CONTROL_DOMAIN.search(inventory)) is not None and is_uuid(found[1]):
        return found[1].lower()
    uuid = _read(root / KERNEL / "uuid").strip().lower()
    is_xen = _read(root / KERNEL / "type").strip() in ("", "xen")
    return uuid if is_xen and is_uuid(uuid) and uuid.strip("0-") else None


def find_own_vm(view: View, *, root: Path = Path("/")) -> VM | None:
    """Return the VM in which this process runs; None if the pool has no such VM. One call, or none outside Xen.

    A halted VM with our uuid is not ours: the pool has a copy of it, or this machine has left the pool.
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
