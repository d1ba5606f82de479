"""A disk that is a LUN: find its VDI, or introduce it without a scan; forget it; see that it grew.

For SRs that show every LUN of a target as a VDI (types ``iscsi`` and ``hba``). This module never scans them: a scan
drops the record of a vanished LUN even if a VM has the disk plugged, and then no disk on that host can be unplugged for
half a minute (docs/background/recordings.md, finding 8 (storage)).

A LUN's number depends on the initiator: an array with host groups shows each host other numbers. Its SCSI id does not.
So xenvol lists the numbers on the host that will plug the disk, and then identifies the disk by its SCSI id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from xenvol.errors import (
    ChangedMeanwhile,
    UnsupportedSRType,
    VolumeInUse,
    VolumeNotFound,
    WrongVolume,
    XapiError,
)
from xenvol.pool.marks import SHARED
from xenvol.pool.undo import Undo
from xenvol.pool.view import HOST_IS_DOWN, Record, View
from xenvol.session.refs import HostRef, PBDRef, SRRef, VDIRef
from xenvol.storage.lun_listing import (
    cannot_be_asked,
    check_same,
    has_numbers,
    includes_master,
    is_master_alone,
    name_of_host,
    number_on_master,
    scsi_id_of,
    seen_luns,
)
from xenvol.storage.lun_record import ask_master, forget_unused, introduce_lun, numbered, share, unshare
from xenvol.storage.pbd import known_pbds, master_first, plug_pbd, unplug_pbd
from xenvol.storage.release import is_ours, release_sr
from xenvol.storage.sr import LUN_LISTING_DRIVER, require_sr, turn_beside_users
from xenvol.storage.srtypes import names_of_types_on_devices, sr_type_of
from xenvol.storage.users import in_words, is_held, vbds_of
from xenvol.storage.vdi import describe, forget_vdi, known_vdis, vdis_of

TYPES_ON_DEVICES = tuple(names_of_types_on_devices())
"""SR types that keep their data on whole devices or LUNs, named in ``sm_config["devserial"]``."""


def find_lun(
    view: View,
    undo: Undo,
    sr_ref: SRRef,
    lun: int | None,
    *,
    is_fresh: bool,
    sharable: bool,
    hosts: Iterable[HostRef] | None = None,
    sr_type: str | None = None,
    proves: Callable[[Record], bool | None] = lambda vdi: None,
) -> tuple[VDIRef, Record]:
    """Return the VDI of the LUN that has this number on these hosts (None: on all). If `lun` is None, return the only
    LUN.

    `is_fresh`: the master has just listed the target. Without `sr_type`, the type is read. `proves` returns whether the
    data proves that a disk is the volume (True), that it is not (False), or nothing (None). Raises VolumeNotFound.
    Raises WrongVolume if the hosts see different LUNs under the number, VolumeInUse if a VM has plugged the LUN that
    had the number before, and UnsupportedSRType if xenvol cannot list the LUNs of the hosts and the data proves
    nothing.
    """
    rows = vdis_of(view, sr_ref)
    shared = partial(share, view, undo, sr_ref) if sharable else lambda vdi_ref, vdi: vdi
    if lun is None:
        lun = _the_only_number(rows)
    of_that_number = numbered(rows, lun)
    is_listed = is_fresh and is_master_alone(view, hosts)
    can_ask = has_numbers(view, sr_ref, sr_type)
    if is_listed or not can_ask:
        for vdi_ref, vdi in of_that_number.items():
            return vdi_ref, shared(vdi_ref, vdi)
    if not can_ask:
        require_sr(view, sr_ref)
        raise VolumeNotFound(f"LUN {lun}", found=map(describe, rows.values()))
    # another process may have dropped the record since the listing, so ask the storage
    if view.driver_of(LUN_LISTING_DRIVER) is None:
        proved = next(((ref, vdi) for ref, vdi in rows.items() if proves(vdi)), None)
        is_certain = is_master_alone(view, hosts)
        vdi_ref, vdi = proved or _introduce_what_master_sees(
            view, undo, sr_ref, lun, rows, proves, is_certain=is_certain
        )
        return vdi_ref, shared(vdi_ref, vdi)
    proved_ids = {vdi["sm_config"].get("SCSIid") for vdi in rows.values() if proves(vdi)}
    scsi_id = scsi_id_of(view, sr_ref, lun, hosts, proved_ids)
    others = {ref: vdi for ref, vdi in of_that_number.items() if vdi["sm_config"].get("SCSIid") != scsi_id}
    what = f"(the LUN that had number {lun} before the storage gave the number to another one)"
    _refuse_if_plugged(view, others.values(), what=what)
    for vdi_ref, vdi in rows.items():
        if vdi["sm_config"].get("SCSIid") == scsi_id:
            return vdi_ref, shared(vdi_ref, vdi)
    number = lun if includes_master(view, hosts) else number_on_master(view, sr_ref, lun, scsi_id)
    vdi_ref, vdi = introduce_lun(view, undo, sr_ref, number, scsi_id, sharable=sharable)
    _forget_stale_records(view, sr_ref, others)
    return vdi_ref, shared(vdi_ref, vdi)


def _forget_stale_records(view: View, sr_ref: SRRef, others: Mapping[VDIRef, Record]) -> None:
    """In an SR that xenvol introduced, drop the unused records of LUNs whose number now belongs to another LUN."""
    if others and is_ours(view.record("SR", sr_ref)):
        forget_unused(view, others)


def which_lun(
    view: View,
    sr_ref: SRRef,
    lun: int | None,
    among: Mapping[VDIRef, Mapping[str, Any]],
    hosts: Iterable[HostRef] | None,
) -> set[VDIRef]:
    """Return those of the disks `among` that these hosts see as the LUN with this number (None: as the only LUN).

    If the pool has no driver that lists LUNs, `VDI.introduce` finds the LUN that the master sees under the number; a
    record that this makes is forgotten again. Raises WrongVolume if the hosts see different LUNs under the number, and
    one of them is among these disks. Raises XapiError if no host can list its LUNs, and UnsupportedSRType if the pool
    has no such driver and `hosts` has another host than the master.
    """
    if not among:
        return set()
    if not has_numbers(view, sr_ref):
        return {ref for ref, vdi in among.items() if lun is None or vdi["sm_config"].get("LUNid") == str(lun)}
    try:
        seen = seen_luns(view, sr_ref, hosts)
    except UnsupportedSRType:
        if lun is None or not is_master_alone(view, hosts):
            raise
        undo = Undo()
        vdi_ref = ask_master(view, undo, sr_ref, lun)
        undo.unwind()
        return {ref for ref in among if ref == vdi_ref}
    seen_as: dict[HostRef, str] = {}
    for host_ref, luns in seen.items():
        if lun is not None and lun in luns:
            seen_as[host_ref] = luns[lun]
        elif lun is None and len(luns) == 1:
            (seen_as[host_ref],) = luns.values()
    found = {ref for ref, vdi in among.items() if vdi["sm_config"].get("SCSIid") in seen_as.values()}
    if found:
        check_same(view, lun, seen_as)
    return found


def find_listed_lun(
    view: View,
    sr_ref: SRRef,
    lun: int | None,
    *,
    hosts: Iterable[HostRef] | None,
    proves: Callable[[Record], bool | None],
) -> Record:
    """Return the VDI's record of a LUN, in an SR that has just listed its target. Introduces no LUN.

    If the data proves no disk, the hosts (None: all) that see the number must agree, but not every host must see it:
    an array may show a volume to the master and to its VM's host only. Raises VolumeNotFound, and the errors of
    `which_lun`.
    """
    rows = vdis_of(view, sr_ref)
    found = {ref for ref, vdi in rows.items() if proves(vdi)}
    if not found and lun is None:
        found = {ref for ref in rows if len(rows) == 1}
    elif not found:
        found = which_lun(
            view, sr_ref, lun, {ref: vdi for ref, vdi in rows.items() if proves(vdi) is None}, hosts
        )
    if len(found) != 1:
        what = "the only LUN (no LUN number was given)" if lun is None else f"LUN {lun}"
        raise VolumeNotFound(what, found=map(describe, rows.values()))
    (vdi_ref,) = found
    return rows[vdi_ref]


def check_under_no_sr(vdi: Record, srs: Iterable[Record]) -> None:
    """Raise VolumeInUse if one of these SRs keeps its data on the LUN: a VM would overwrite it."""
    scsi_id = vdi["sm_config"].get("SCSIid")
    for sr in srs:
        if scsi_id and f"scsi-{scsi_id}" in sr["sm_config"].get("devserial", "").split(","):
            users = [f"SR {sr['name_label']} ({sr['uuid']}), which keeps its data on it"]
            raise VolumeInUse(vdi["uuid"], users=users, is_to_go=True)


def is_lun_per_vdi(sr_type: str) -> bool:
    """Whether SRs of this type show one VDI for each LUN. Only the storage grows such a disk."""
    return sr_type_of(sr_type).luns


def forget_lun(
    view: View, sr_ref: SRRef, lun: int | None, *, of: Callable[[Record], bool] | None = None
) -> None:
    """Take back what xenvol did to the LUN's record in an SR that stays, unless the LUN is in use. Idempotent.

    `of` says whether a record is that of the LUN; without it, the number on the master decides. If `lun` is None, and
    `of` does not tell one record from the others, nothing is done. In an SR that xenvol introduced, the record is
    dropped, since the array may give its number to another LUN. In another owner's SR, the record stays, and is as
    sharable as before.
    """
    rows = vdis_of(view, sr_ref)
    own = numbered(rows, lun) if of is None else {ref: vdi for ref, vdi in rows.items() if of(vdi)}
    if lun is None and len(own) != 1:
        return
    is_own = is_ours(view.record("SR", sr_ref))
    for vdi_ref, vdi in own.items():
        if vdi["VBDs"] or is_held(vdi):
            continue
        if is_own:
            forget_vdi(view, vdi_ref)
        elif vdi["other_config"].get(SHARED) == vdi["uuid"]:
            unshare(view, sr_ref, vdi_ref, vdi)


def release_lun(view: View, sr_ref: SRRef, lun: int | None, *, of: Callable[[Record], bool]) -> bool:
    """Release the SR of a LUN, and forget the LUN's record in an SR that stays. Return whether the SR is released.

    `of` says whether a record is that of the LUN. Idempotent. An SR of another owner stays, also if it is released.
    """
    is_released = release_sr(view, sr_ref, of=of)
    if not is_released or not is_ours(view.record("SR", sr_ref)):
        forget_lun(view, sr_ref, lun, of=of)
    return is_released


def log_in_again(view: View, undo: Undo, sr_ref: SRRef) -> None:
    """Unplug the SR on all hosts and plug it again: only a new log-in shows that a LUN grew (finding 7 (storage)).

    A host that is down logs in again when it starts. Raises VolumeInUse if a VM has plugged a disk of the SR.
    """
    what = "(any LUN of the target)"
    _refuse_if_plugged(view, vdis_of(view, sr_ref).values(), what=what)
    with turn_beside_users(view, sr_ref, for_unplug=True, undo=undo):
        _refuse_if_plugged(view, known_vdis(view, sr_ref).values(), what=what)  # now, in the turn
        pbds = known_pbds(view, sr_ref)
        on_hosts = master_first(view, pbds)
        plugged = [pbds[host][0] for host in on_hosts if pbds[host][1]["currently_attached"]]
        # a dead attempt may have left PBDs unplugged; in an SR that xenvol introduced, all are plugged
        is_all = not plugged or is_ours(view.record("SR", sr_ref))
        wanted = [pbds[host][0] for host in on_hosts] if is_all else list(plugged)
        for pbd_ref in reversed(plugged):
            if not _unplug_unless_down(view, undo, pbd_ref):
                wanted.remove(pbd_ref)
        for pbd_ref in wanted:
            plug_pbd(view, None, sr_ref, pbd_ref)  # this is the undo itself, so it records no inverse
    undo.forget()


def _refuse_if_plugged(view: View, vdis: Iterable[Record], *, what: str) -> None:
    """Raise VolumeInUse, which names the VMs, if one of these disks is plugged."""
    plugged = [vbd for vbd in vbds_of(view, vdis).values() if vbd["currently_attached"]]
    if plugged:
        raise VolumeInUse(what, users=in_words(view, plugged), is_to_go=True)


def _unplug_unless_down(view: View, undo: Undo, pbd_ref: PBDRef) -> bool:
    try:
        unplug_pbd(view, undo, pbd_ref)
    except XapiError as error:
        if error.code == "VDI_IN_USE":  # plugged since the last read; a retry names the VM
            raise ChangedMeanwhile("extend", what="a VM plugged a disk of the target") from error
        if error.code not in HOST_IS_DOWN:
            raise
        return False
    return True


def _the_only_number(rows: Mapping[VDIRef, Record]) -> int:
    if len(rows) != 1:
        raise VolumeNotFound("the only LUN (no LUN number was given)", found=map(describe, rows.values()))
    (only,) = rows.values()
    return int(only["sm_config"]["LUNid"])


def _introduce_what_master_sees(
    view: View,
    undo: Undo,
    sr_ref: SRRef,
    lun: int,
    rows: Mapping[VDIRef, Record],
    proves: Callable[[Record], bool | None],
    *,
    is_certain: bool,
) -> tuple[VDIRef, Record]:
    """Introduce the LUN that the master sees under this number, in a pool without a driver that lists LUNs.

    `is_certain`: no other host will plug the disk. Otherwise another host may see another LUN under the number, so the
    data must prove the disk; the storage driver on that host finds the LUN by its serial. Raises UnsupportedSRType if
    the data cannot prove it.
    """
    if not is_certain and not any(proves(vdi) is False for vdi in rows.values()):
        raise cannot_be_asked(view)
    vdi_ref = ask_master(view, undo, sr_ref, lun)
    if vdi_ref is None:
        master = name_of_host(view, view.master)
        raise VolumeNotFound(f"LUN {lun} on host {master}", found=map(describe, rows.values()))
    vdi = view.record("VDI", vdi_ref)
    if not is_certain and not proves(vdi):
        raise WrongVolume("the LUN that the data describes", found=f"{describe(vdi)} on the pool's master")
    others = {ref: each for ref, each in numbered(rows, lun).items() if ref != vdi_ref}
    _refuse_if_plugged(view, others.values(), what=f"(the LUN that had number {lun} before)")
    _forget_stale_records(view, sr_ref, others)
    return vdi_ref, vdi
