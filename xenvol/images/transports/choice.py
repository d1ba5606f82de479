"""Which road there is to the disks of an SR, and of each that there is not the reason, before anything is made.

A control domain takes no disk that is a LUN (storage managers since 4.0 give it no address: facts/sm-truth.md, VBD on
LUN-per-VDI), and the HTTP door plugs the disk into a control domain, too: only a guest of the pool leads there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

from xenvol.attaching.vm import VM, check_takes_disk
from xenvol.errors import VMError
from xenvol.images.errors import NoRoad
from xenvol.images.transfer_mark import Attempt
from xenvol.images.transports.base import PATIENCE, Patience, Road
from xenvol.images.transports.block import DEV, BlockRoad
from xenvol.images.transports.http import NO_ENDPOINT, HTTPRoad
from xenvol.images.transports.this_vm import find_own_vm
from xenvol.pool.view import Record, View
from xenvol.session import Endpoint
from xenvol.session.refs import NULL_REF, SRRef
from xenvol.storage.srtypes import sr_type_of

RoadName = Literal["auto", "http", "block"]

ROOT: Final = Path("/")


def choose(
    view: View,
    sr_ref: SRRef,
    attempt: Attempt,
    *,
    road: RoadName = "auto",
    endpoint: Endpoint | None = None,
    root: Path = ROOT,
    dev: Path = DEV,
    patience: Patience = PATIENCE,
) -> Road:
    """The road to the disks of this SR; `auto`: the block device where we run in the pool, else HTTP.

    `endpoint` is where a xapi of the pool listens, for a session that was logged in by somebody else; `root` is where
    the files lie that tell which VM this is. Two to five calls, and nothing made. Raises NoRoad.
    """
    sr_rec = view.record("SR", sr_ref)
    pbds = view.find("PBD", {"SR": sr_ref, "currently_attached": True})
    hosts = {pbd["host"] for pbd in pbds.values()}
    name = f"SR {sr_rec['name_label']} ({sr_rec['uuid']})"
    reasons: dict[str, str] = {}
    if road in ("auto", "block"):
        vm = find_own_vm(view, root=root)
        reason = _why_not_block(view, sr_rec, hosts, vm, dev)
        if vm is not None and reason is None:
            return BlockRoad(view, vm, attempt, dev=dev, patience=patience)
        reasons["block"] = reason or "this machine is no VM of the pool"
    if road in ("auto", "http"):
        session = view.session
        reason = _why_not_http(sr_rec, hosts, endpoint if endpoint is not None else session.endpoint)
        if reason is None:
            return HTTPRoad(view, session, endpoint=endpoint, patience=patience)
        reasons["http"] = reason
    raise NoRoad(name, reasons=reasons)


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
