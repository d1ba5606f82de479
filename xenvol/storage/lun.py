"""A disk that is a LUN: what each host sees of a target, which disk that is, brought in without a scan.

For SRs that show every LUN of a target as a VDI (types ``iscsi`` and ``hba``). They are never scanned here: a scan
drops the record of a LUN that has vanished even from under a plugged disk, and then nothing on that host can be
unplugged for half a minute (docs/background/recordings.md, finding 8 (storage)).

A LUN's number belongs to an initiator: an array with host groups shows each host other numbers. Its SCSI id belongs to
the LUN. So a number is asked on the host that shall plug the disk, and the disk is then known by its SCSI id.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

from xenvol.errors import (
    ChangedMeanwhile,
    UnsupportedSRType,
    VolumeInUse,
    VolumeNotFound,
    WrongVolume,
    XapiError,
    XapiUnreachable,
    XenVolError,
)
from xenvol.pool.changes import LATE_REFUSALS
from xenvol.pool.marks import MARK, SHARED
from xenvol.pool.undo import Undo
from xenvol.pool.view import HOST_IS_DOWN, Record, View
from xenvol.session.refs import HostRef, PBDRef, SRRef, VDIRef
from xenvol.storage.pbd import find_pbds, known_pbds, master_first, plug_pbd, unplug_pbd
from xenvol.storage.release import is_ours
from xenvol.storage.sr import PROBING, require_sr, turn_beside_users
from xenvol.storage.srtypes import names_of_types_on_lvm, sr_type_of
from xenvol.storage.turn import turn
from xenvol.storage.users import in_words, is_held, vbds_of
from xenvol.storage.vdi import describe, forget_vdi, known_vdis, vdis_of

LVM_TYPES = tuple(names_of_types_on_lvm())
"""SR types that keep a volume group on whole LUNs, and say in ``sm_config["devserial"]`` on which."""
_LISTING = "SR_BACKEND_FAILURE_107"
"""The probe was told no SCSI id: the last parameter of its refusal lists the LUNs (docs/background/xapi.md 5.3)."""
_LUN = re.compile(r"<LUN>.*?</LUN>", re.DOTALL)
_FACT = re.compile(r"<(LUNid|SCSIid)>\s*(.*?)\s*</")


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
    """Return the VDI of the LUN that has this number on these hosts (None: on all); a number of None is for the only
    LUN.

    `is_fresh`: the master has just listed the target. `sr_type` is read where it is not told. `proves` says what the
    data proves of a disk: that it is the volume, that it is not, or nothing. Raises VolumeNotFound, WrongVolume where
    hosts see different LUNs under the number, VolumeInUse where a VM has the LUN plugged that had the number before,
    and UnsupportedSRType where the hosts cannot be asked and the data proves nothing.
    """
    rows = vdis_of(view, sr_ref)
    share = partial(_share, view, undo, sr_ref) if sharable else lambda vdi: vdi
    if lun is None:
        lun = _the_only_number(rows)
    of_that_number = {ref: vdi for ref, vdi in rows.items() if vdi["sm_config"].get("LUNid") == str(lun)}
    is_listed = is_fresh and _is_master_alone(view, hosts)
    can_ask = _has_numbers(view, sr_ref, sr_type)
    if is_listed or not can_ask:
        for vdi_ref, vdi in of_that_number.items():
            return vdi_ref, share(vdi)
    if not can_ask:
        require_sr(view, sr_ref)
        raise VolumeNotFound(f"LUN {lun}", found=map(describe, rows.values()))
    # where it was listed, another process may have dropped its record since: the storage knows
    if view.driver_of(PROBING) is None:
        proved = next(((ref, vdi) for ref, vdi in rows.items() if proves(vdi)), None)
        is_certain = _is_master_alone(view, hosts)
        vdi_ref, vdi = proved or _bring_in_unasked(
            view, undo, sr_ref, lun, rows, proves, is_certain=is_certain
        )
        return vdi_ref, share(vdi)
    proved_ids = {vdi["sm_config"].get("SCSIid") for vdi in rows.values() if proves(vdi)}
    scsi_id = _scsi_id_of(view, sr_ref, lun, hosts, proved_ids)
    others = {ref: vdi for ref, vdi in of_that_number.items() if vdi["sm_config"].get("SCSIid") != scsi_id}
    what = f"(the LUN that had number {lun} before the storage gave the number to another one)"
    _refuse_if_plugged(view, others.values(), what=what)
    for vdi_ref, vdi in rows.items():
        if vdi["sm_config"].get("SCSIid") == scsi_id:
            return vdi_ref, share(vdi)
    number = lun if _is_asked(view, hosts) else _number_on_master(view, sr_ref, lun, scsi_id)
    found = _bring_in(view, undo, sr_ref, number, scsi_id, rows, sharable=sharable)
    _forget_those_that_left(view, sr_ref, others)
    return found


def _forget_those_that_left(view: View, sr_ref: SRRef, others: Mapping[VDIRef, Record]) -> None:
    """Drop, in an SR of ours, the records of LUNs whose number is another one's now, and that nobody has by now."""
    if others and is_ours(view.record("SR", sr_ref)):
        view.read({"VDI": others})
        for vdi_ref in others:
            vdi = view.known("VDI", vdi_ref)
            if vdi is not None and not vdi["VBDs"] and not is_held(vdi):
                forget_vdi(view, vdi_ref)


def luns_on(view: View, host_ref: HostRef, device_config: Mapping[str, str]) -> dict[int, str]:
    """Return the SCSI ids of a target's LUNs by their numbers, as this host sees them now. Changes nothing in xapi.

    The probe looks anew at what the host is connected to, which also drops the devices of LUNs that have vanished; as
    long as one of them is there, the storage driver gives out no LUN of the target. It takes no lock on the SR, so it
    waits for no other call on it. An SCSIid in the device_config would be looked for, and leave a session behind when
    it is not there (docs/background/recordings.md, 20e), so it is left out. Raises XapiError, and UnsupportedSRType
    where the host has not the driver for it.
    """
    config = {key: value for key, value in device_config.items() if key not in ("SCSIid", "LUNid")}
    try:
        listing = str(view.call("SR.probe", host_ref, config, PROBING, {}))
    except XapiError as error:
        if error.code == "SR_UNKNOWN_DRIVER":
            raise _cannot_be_asked(view) from error
        if error.code != _LISTING:
            raise
        listing = error.params[-1]
    facts = [dict(_FACT.findall(lun)) for lun in _LUN.findall(listing)]
    return {int(fact["LUNid"]): fact["SCSIid"] for fact in facts if len(fact) == 2}


def look_anew(view: View, vdi_ref: str, host_ref: str) -> VolumeNotFound | None:
    """Let a host look at the target again, which drops vanished LUNs. Return the error to raise if this LUN has
    vanished, else None.

    Before each attach and detach the storage driver reads every LUN of the target, and refuses where one that has
    vanished still has a device on the host (`_loadvdis` in libs/sm of xapi-project/sm). None also where the host cannot
    be asked. Raises XapiError.
    """
    vdi = view.record("VDI", vdi_ref)
    sr_ref, scsi_id = SRRef(vdi["SR"]), vdi["sm_config"].get("SCSIid")
    if scsi_id is None or not _has_numbers(view, sr_ref) or view.driver_of(PROBING) is None:
        return None
    for host, luns in seen_luns(view, sr_ref, [HostRef(host_ref)]).items():
        if scsi_id not in luns.values():
            what = f"LUN {vdi['sm_config'].get('LUNid')} (SCSI id {scsi_id}) on host {_name_of(view, host)}"
            return VolumeNotFound(what, found=_in_words(luns))
    return None


def seen_luns(view: View, sr_ref: SRRef, hosts: Iterable[HostRef] | None) -> dict[HostRef, dict[int, str]]:
    """Return what `luns_on` says on each of these hosts (None: on all) on which the SR is plugged, the master first.

    A host that is down is left out. Raises XapiError, also where all of them are down.
    """
    seen: dict[HostRef, dict[int, str]] = {}
    down: XapiError | None = None
    for host_ref, device_config in _plugged_on(view, sr_ref, hosts).items():
        try:
            seen[host_ref] = luns_on(view, host_ref, device_config)
        except XapiError as error:
            if error.code not in HOST_IS_DOWN:
                if _has_lost_its_way(view, sr_ref, host_ref, device_config):
                    raise XapiError("SR_HAS_NO_PBDS", [sr_ref], "SR.probe") from error
                raise
            down = error
    if not seen and down is not None:
        raise down
    return seen


def _has_lost_its_way(view: View, sr_ref: SRRef, host_ref: HostRef, device_config: Mapping[str, str]) -> bool:
    """Whether another process has destroyed the PBD with this device_config, and so the secrets that it names."""
    try:
        _, pbd = find_pbds(view, sr_ref).get(host_ref, (None, {}))
    except (XapiError, XapiUnreachable):  # the refusal of the probe is the error that counts
        return False
    return pbd.get("device_config") != device_config


def which_lun(
    view: View,
    sr_ref: SRRef,
    lun: int | None,
    among: Mapping[VDIRef, Mapping[str, Any]],
    hosts: Iterable[HostRef] | None,
) -> set[VDIRef]:
    """Which of these disks of the SR is the LUN that these hosts see under the number; the only LUN for None.

    Where the pool has no driver that lists LUNs, `VDI.introduce` tells what the number means to the master; a record
    that it makes is forgotten again. Raises XapiError where no host can be asked, and UnsupportedSRType where another
    host than the master would have to be.
    """
    if not among:
        return set()
    if not _has_numbers(view, sr_ref):
        return {ref for ref, vdi in among.items() if lun is None or vdi["sm_config"].get("LUNid") == str(lun)}
    try:
        seen = seen_luns(view, sr_ref, hosts)
    except UnsupportedSRType:
        if lun is None or not _is_master_alone(view, hosts):
            raise
        undo = Undo()
        vdi_ref = _ask_master(view, undo, sr_ref, lun, vdis_of(view, sr_ref))
        undo.unwind()
        return {ref for ref in among if ref == vdi_ref}
    scsi_ids: set[str] = set()
    for luns in seen.values():
        if lun in luns:
            scsi_ids.add(luns[lun])
        elif lun is None and len(luns) == 1:
            scsi_ids |= set(luns.values())
    return {ref for ref, vdi in among.items() if vdi["sm_config"].get("SCSIid") in scsi_ids}


def check_under_no_sr(vdi: Record, srs: Iterable[Record]) -> None:
    """Raise VolumeInUse where one of these SRs keeps its volume group on the LUN: a VM would write over it."""
    scsi_id = vdi["sm_config"].get("SCSIid")
    for sr in srs:
        if scsi_id and f"scsi-{scsi_id}" in sr["sm_config"].get("devserial", "").split(","):
            users = [f"SR {sr['name_label']} ({sr['uuid']}), which lies on it"]
            raise VolumeInUse(vdi["uuid"], users=users, is_to_go=True)


def is_lun_per_vdi(sr_type: str) -> bool:
    """Whether SRs of this type show LUNs, which have numbers, and grow by themselves."""
    return sr_type_of(sr_type).luns


def forget_lun(
    view: View, sr_ref: SRRef, lun: int | None, *, of: Callable[[Record], bool] | None = None
) -> None:
    """Take back what we did to the LUN's record in an SR that stays, once no VM has the LUN. Idempotent.

    `of` tells the LUN's record from the others, where the number is that of a host which may not be the master.
    In an SR of ours the record goes, lest its number is given to another LUN. In one of somebody else's the record
    stays, and is as sharable as it was before.
    """
    if lun is None:
        return
    is_own = is_ours(view.record("SR", sr_ref))
    for vdi_ref, vdi in vdis_of(view, sr_ref).items():
        number = vdi["sm_config"].get("LUNid")
        is_it = number == str(lun) if of is None else of(vdi)
        if not is_it or vdi["VBDs"] or is_held(vdi):
            continue
        if is_own:
            forget_vdi(view, vdi_ref)
        elif vdi["other_config"].get(SHARED) == vdi["uuid"]:
            _introduce(view, sr_ref, int(number), like=_unshared(vdi))


def log_in_again(view: View, undo: Undo, sr_ref: SRRef) -> None:
    """Unplug the SR on every host and plug it again: only a new log-in shows that a LUN grew (finding 7 (storage)).

    A host that is down logs in anew when it starts. Raises VolumeInUse while a disk of the SR is plugged into a VM.
    """
    what = "(any LUN of the target)"
    _refuse_if_plugged(view, vdis_of(view, sr_ref).values(), what=what)
    with turn_beside_users(view, sr_ref, for_unplug=True, undo=undo):
        _refuse_if_plugged(view, known_vdis(view, sr_ref).values(), what=what)  # by now
        pbds = known_pbds(view, sr_ref)
        on_hosts = master_first(view, pbds)
        plugged = [pbds[host][0] for host in on_hosts if pbds[host][1]["currently_attached"]]
        # one that died half way has left some unplugged, which in an SR of ours are to be plugged
        is_all = not plugged or is_ours(view.record("SR", sr_ref))
        wanted = [pbds[host][0] for host in on_hosts] if is_all else list(plugged)
        for pbd_ref in reversed(plugged):
            try:
                is_unplugged = _unplug_unless_down(view, undo, pbd_ref)
            except XapiError as error:
                if error.code == "VDI_IN_USE":  # a disk is plugged without a turn
                    _refuse_if_plugged(view, vdis_of(view, sr_ref).values(), what=what)
                raise
            if not is_unplugged:
                wanted.remove(pbd_ref)
        for pbd_ref in wanted:
            plug_pbd(view, None, sr_ref, pbd_ref)  # this *is* the way back, and has none of its own
    undo.forget()


def _refuse_if_plugged(view: View, vdis: Iterable[Record], *, what: str) -> None:
    """Raise VolumeInUse, which names the VMs, where one of these disks is plugged."""
    plugged = [vbd for vbd in vbds_of(view, vdis).values() if vbd["currently_attached"]]
    if plugged:
        raise VolumeInUse(what, users=in_words(view, plugged), is_to_go=True)


def _unplug_unless_down(view: View, undo: Undo, pbd_ref: PBDRef) -> bool:
    try:
        unplug_pbd(view, undo, pbd_ref)
    except XapiError as error:
        if error.code == "VDI_IN_USE":  # since we looked; the next look names the VM
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


def _has_numbers(view: View, sr_ref: SRRef, sr_type: str | None = None) -> bool:
    """Whether a LUN can be asked for by its number: the driver of ``hba`` knows none (docs/background/xapi.md 5.4)."""
    return sr_type_of(sr_type or view.record("SR", sr_ref)["type"]).has_lun_numbers


def _is_master_alone(view: View, hosts: Iterable[HostRef] | None) -> bool:
    return set(view.hosts if hosts is None else hosts) <= {view.master}


def _is_asked(view: View, hosts: Iterable[HostRef] | None) -> bool:
    """Whether the master is among the hosts that are asked for their numbers."""
    return hosts is None or view.master in set(hosts)


def _plugged_on(
    view: View, sr_ref: SRRef, hosts: Iterable[HostRef] | None
) -> dict[HostRef, Mapping[str, str]]:
    """The device_configs of these hosts on which the SR is plugged; the master's if it is on none of them."""
    wanted = set(view.hosts if hosts is None else hosts)
    pbds = known_pbds(view, sr_ref)
    if not wanted <= set(pbds) or any("device_config" not in pbd for _, pbd in pbds.values()):
        pbds = find_pbds(view, sr_ref)
    plugged = {
        host: pbds[host][1]["device_config"]
        for host in master_first(view, pbds)
        if pbds[host][1]["currently_attached"]
    }
    asked = {host: config for host, config in plugged.items() if host in wanted}
    return asked or {host: config for host, config in plugged.items() if host == view.master}


def _scsi_id_of(
    view: View, sr_ref: SRRef, lun: int, hosts: Iterable[HostRef] | None, proved: Collection[str | None]
) -> str:
    """The SCSI id of the LUN that has this number on all these hosts. Raises VolumeNotFound and WrongVolume.

    Where the hosts number the LUNs differently, the LUN that the data proves, if each of them sees it and one of them
    under this number: `proved` are the SCSI ids of the disks that the data proves to be the volume.
    """
    seen = seen_luns(view, sr_ref, hosts)
    if not seen:  # another process has unplugged the SR
        raise XapiError("SR_HAS_NO_PBDS", [sr_ref], "SR.probe")
    for luns in seen.values():
        if luns.get(lun) in proved and all(luns[lun] in others.values() for others in seen.values()):
            return luns[lun]
    for host_ref, luns in seen.items():
        if lun not in luns:
            raise VolumeNotFound(f"LUN {lun} on host {_name_of(view, host_ref)}", found=_in_words(luns))
    numbered = {host_ref: luns[lun] for host_ref, luns in seen.items()}
    if len(set(numbered.values())) > 1:
        found = ", ".join(f"{scsi_id} on host {_name_of(view, host)}" for host, scsi_id in numbered.items())
        raise WrongVolume(f"the same LUN under number {lun} on all hosts", found=found)
    return next(iter(numbered.values()))


def _number_on_master(view: View, sr_ref: SRRef, lun: int, scsi_id: str) -> int:
    """The number under which the pool's master, which brings it in, sees the LUN that another host sees as `lun`.

    To bring in another LUN would write over the record of that one. Raises WrongVolume and VolumeNotFound.
    """
    luns = seen_luns(view, sr_ref, [view.master]).get(view.master, {})
    for number, its_scsi_id in luns.items():
        if its_scsi_id == scsi_id:
            return number
    what = f"SCSI id {scsi_id}, which the VM's host sees as LUN {lun}"
    if lun in luns:
        raise WrongVolume(
            what,
            found=f"SCSI id {luns[lun]} under that number on the pool's master: export the volume to the master, too",
        )
    raise VolumeNotFound(
        f"{what}, on the pool's master, host {_name_of(view, view.master)}", found=_in_words(luns)
    )


def _in_words(luns: Mapping[int, str]) -> list[str]:
    return [f"LUNid {number}, SCSIid {scsi_id}" for number, scsi_id in luns.items()]


def _name_of(view: View, host_ref: HostRef) -> str:
    host = view.record("host", host_ref)
    return f"{host['name_label']} ({host['uuid']})"


def _bring_in(
    view: View,
    undo: Undo,
    sr_ref: SRRef,
    lun: int,
    scsi_id: str,
    rows: Mapping[VDIRef, Record],
    *,
    sharable: bool,
) -> tuple[VDIRef, Record]:
    """Introduce the LUN with this number on the master, which must be the one with this SCSI id."""
    is_foreign = not is_ours(view.record("SR", sr_ref))
    vdi_ref = _introduce(view, sr_ref, lun, sharable=sharable, is_marked=is_foreign)
    if vdi_ref is None:
        require_sr(view, sr_ref)
        raise VolumeNotFound(
            f"LUN {lun} on the pool's master, host {_name_of(view, view.master)}",
            found=map(describe, rows.values()),
        )
    if vdi_ref not in rows:
        undo.did(f"introduced LUN {lun} as VDI {vdi_ref}", forget_vdi, view, vdi_ref)
    vdi = view.call("VDI.get_record", vdi_ref)
    if vdi["sm_config"].get("SCSIid") != scsi_id:
        raise WrongVolume(
            f"SCSI id {scsi_id}, which the VM's host sees as LUN {lun}",
            found=f"{describe(vdi)} under that number on the pool's master: export the volume to the master, too",
        )
    return vdi_ref, vdi


def _bring_in_unasked(
    view: View,
    undo: Undo,
    sr_ref: SRRef,
    lun: int,
    rows: Mapping[VDIRef, Record],
    proves: Callable[[Record], bool | None],
    *,
    is_certain: bool,
) -> tuple[VDIRef, Record]:
    """Introduce the LUN that the master sees under this number, where no host can be asked for its numbers.

    `is_certain`: no other host shall have the disk. Otherwise the data must prove it, since another host may see
    another LUN under the number; the attach there looks for the serial. Raises UnsupportedSRType where it cannot.
    """
    if not is_certain and not any(proves(vdi) is False for vdi in rows.values()):
        raise _cannot_be_asked(view)
    vdi_ref = _ask_master(view, undo, sr_ref, lun, rows)
    if vdi_ref is None:
        master = _name_of(view, view.master)
        raise VolumeNotFound(f"LUN {lun} on host {master}", found=map(describe, rows.values()))
    vdi: Record = view.call("VDI.get_record", vdi_ref)
    if not is_certain and not proves(vdi):
        raise WrongVolume("the LUN that the data describes", found=f"{describe(vdi)} on the pool's master")
    others = {ref: each for ref, each in _numbered(rows, lun).items() if ref != vdi_ref}
    _refuse_if_plugged(view, others.values(), what=f"(the LUN that had number {lun} before)")
    _forget_those_that_left(view, sr_ref, others)
    return vdi_ref, vdi


def _ask_master(
    view: View, undo: Undo, sr_ref: SRRef, lun: int, rows: Mapping[VDIRef, Record]
) -> VDIRef | None:
    """Return the VDI of the LUN that the master sees under this number now, introduced if it is not among the rows.

    None where the master sees no such LUN.
    """
    those = _numbered(rows, lun)
    is_foreign = not is_ours(view.record("SR", sr_ref))
    vdi_ref = _introduce(view, sr_ref, lun, like=next(iter(those.values()), None), is_marked=is_foreign)
    if vdi_ref is None:
        return None
    if vdi_ref not in rows:
        undo.did(f"introduced LUN {lun} as VDI {vdi_ref}", forget_vdi, view, vdi_ref)
    if those.keys() != {vdi_ref} and (those or vdi_ref in rows):
        # its record has just taken over the names and marks that were given for the number
        _introduce(view, sr_ref, lun, like=rows.get(vdi_ref), is_marked=is_foreign)
    return vdi_ref


def _numbered(rows: Mapping[VDIRef, Record], lun: int) -> dict[VDIRef, Record]:
    return {ref: vdi for ref, vdi in rows.items() if vdi["sm_config"].get("LUNid") == str(lun)}


def _cannot_be_asked(view: View) -> UnsupportedSRType:
    return UnsupportedSRType(PROBING, host=view.master, offered=view.sr_types)


def _share(view: View, undo: Undo, sr_ref: SRRef, vdi: Record) -> Record:
    """Make the disk sharable, and mark it, so that a later release takes that back. Raises VolumeInUse for ``hba``."""
    if vdi["sharable"]:
        return vdi
    if not _has_numbers(view, sr_ref):
        raise VolumeInUse(vdi["uuid"], users=["one VM at a time at most"], can_share=False)
    shared = vdi | {"other_config": {**vdi["other_config"], SHARED: vdi["uuid"]}, "sharable": True}
    number = int(vdi["sm_config"]["LUNid"])  # the master's: it may be another than the VM's host has
    _introduce(view, sr_ref, number, like=shared)
    undo.did(f"made VDI {vdi['uuid']} sharable", _introduce, view, sr_ref, number, like=vdi)
    return shared


def _unshared(vdi: Record) -> Record:
    other_config = {key: value for key, value in vdi["other_config"].items() if key != SHARED}
    return vdi | {"other_config": other_config, "sharable": False}


def _introduce(
    view: View,
    sr_ref: SRRef,
    lun: int,
    *,
    like: Record | None = None,
    sharable: bool = False,
    is_marked: bool = False,
) -> VDIRef | None:
    """Bring in a LUN by its number; None when the storage has no such LUN, which takes a minute to find out.

    The uuid is the LUN's own, whatever is asked for; the record of a LUN that is known already is returned, and
    would take over the names that are given (docs/background/recordings.md, finding 9 (storage)): so they are given as
    they are in `like`.
    """
    # must be the location of no other disk; the driver puts the real one in its place
    elsewhere = str(uuid.uuid4())
    names = ("", "") if like is None else (like["name_label"], like["name_description"])
    vdi_type = "user" if like is None else like["type"]
    other_config = ({MARK: ""} if is_marked else {}) if like is None else like["other_config"]
    xenstore_data = {} if like is None else like["xenstore_data"]
    is_sharable = sharable if like is None else like["sharable"]
    spec: tuple[Any, ...] = (elsewhere, *names, sr_ref, vdi_type, is_sharable, False, other_config, elsewhere)
    known = set(view.remembered("VDI"))

    def is_it(vdi_ref: VDIRef, vdi: Record) -> bool:
        if vdi["sm_config"].get("LUNid") != str(lun) or vdi["sharable"] != is_sharable:
            return False
        is_same = like is not None and vdi["uuid"] == like["uuid"] and vdi["other_config"] == other_config
        return is_same or vdi_ref not in known

    try:
        with turn(view, sr_ref):
            return VDIRef(view.call("VDI.introduce", *spec, xenstore_data, {"LUNid": str(lun)}))
    except (XapiError, XapiUnreachable) as error:
        if isinstance(error, XapiError) and error.code not in LATE_REFUSALS:
            raise
        # every refusal of the storage driver comes as this one (docs/background/recordings.md, contradiction 1)
        if isinstance(error, XapiError) and "Vdi_does_not_exist" in "".join(error.params):
            return None
        try:
            found = [ref for ref, vdi in vdis_of(view, sr_ref).items() if is_it(ref, vdi)]
        except XenVolError as failure:
            error.add_note(f"whether LUN {lun} was introduced is not known: {failure}")
            found = []
        if not found:
            raise
        return found[0]
