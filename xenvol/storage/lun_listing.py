"""Which LUNs of a target each host sees now, by number and SCSI id. Reading changes nothing in xapi.

A LUN's number depends on the initiator: an array with host groups shows each host other numbers. Its SCSI id does not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from xenvol.errors import (
    UnsupportedSRType,
    VolumeNotFound,
    WrongVolume,
    XapiError,
    XapiUnreachable,
)
from xenvol.pool.view import HOST_IS_DOWN, View
from xenvol.session.refs import HostRef, SRRef
from xenvol.storage.pbd import find_pbds, known_pbds, master_first
from xenvol.storage.sr import LUN_LISTING_DRIVER
from xenvol.storage.srtypes import sr_type_of

_NO_SCSI_ID = "SR_BACKEND_FAILURE_107"
"""The refusal of a probe without a SCSI id. Its last parameter lists the LUNs (docs/background/xapi.md 5.3)."""
_LUN = re.compile(r"<LUN>.*?</LUN>", re.DOTALL)
_FACT = re.compile(r"<(LUNid|SCSIid)>\s*(.*?)\s*</")


def luns_on(view: View, host_ref: HostRef, device_config: Mapping[str, str]) -> dict[int, str]:
    """Return the SCSI ids of a target's LUNs, by number, as this host sees them now. Changes nothing in xapi.

    The probe rescans the host's connection, which also drops the devices of vanished LUNs; while such a device exists,
    the storage driver attaches no LUN of the target. The probe takes no lock on the SR, so it waits for no other call.
    With an SCSIid in the device_config, it would look for that LUN, and leave an iSCSI session behind if the LUN is not
    there (docs/background/recordings.md, 20e), so xenvol omits it. Raises XapiError, and UnsupportedSRType if the host
    lacks the driver.
    """
    config = {key: value for key, value in device_config.items() if key not in ("SCSIid", "LUNid")}
    try:
        listing = str(view.call("SR.probe", host_ref, config, LUN_LISTING_DRIVER, {}))
    except XapiError as error:
        if error.code == "SR_UNKNOWN_DRIVER":
            raise cannot_be_asked(view) from error
        if error.code != _NO_SCSI_ID:
            raise
        listing = error.params[-1]
    facts = [dict(_FACT.findall(lun)) for lun in _LUN.findall(listing)]
    return {int(fact["LUNid"]): fact["SCSIid"] for fact in facts if len(fact) == 2}


def look_anew(view: View, vdi_ref: str, host_ref: str) -> VolumeNotFound | None:
    """Let a host list the target again, which drops the devices of vanished LUNs. Return the error to raise if this LUN
    has vanished, else None.

    Before each attach and detach the storage driver reads every LUN of the target, and refuses if a vanished LUN still
    has a device on the host (`_loadvdis` in libs/sm of xapi-project/sm). Returns None also if the host cannot list its
    LUNs. Raises XapiError.
    """
    vdi = view.record("VDI", vdi_ref)
    sr_ref, scsi_id = SRRef(vdi["SR"]), vdi["sm_config"].get("SCSIid")
    if scsi_id is None or not has_numbers(view, sr_ref) or view.driver_of(LUN_LISTING_DRIVER) is None:
        return None
    for host, luns in seen_luns(view, sr_ref, [HostRef(host_ref)]).items():
        if scsi_id not in luns.values():
            what = (
                f"LUN {vdi['sm_config'].get('LUNid')} (SCSI id {scsi_id}) on host {name_of_host(view, host)}"
            )
            return VolumeNotFound(what, found=_in_words(luns))
    return None


def seen_luns(view: View, sr_ref: SRRef, hosts: Iterable[HostRef] | None) -> dict[HostRef, dict[int, str]]:
    """Return the result of `luns_on` for each of these hosts (None: all) on which the SR is plugged, the master first.

    If the SR is plugged on none of them, return that of the master. A host that is down is skipped. Raises XapiError,
    also if all of them are down.
    """
    seen: dict[HostRef, dict[int, str]] = {}
    down: XapiError | None = None
    for host_ref, device_config in _plugged_configs(view, sr_ref, hosts).items():
        try:
            seen[host_ref] = luns_on(view, host_ref, device_config)
        except XapiError as error:
            if error.code not in HOST_IS_DOWN:
                if _has_other_pbd(view, sr_ref, host_ref, device_config):
                    raise XapiError("SR_HAS_NO_PBDS", [sr_ref], "SR.probe") from error
                raise
            down = error
    if not seen and down is not None:
        raise down
    return seen


def _has_other_pbd(view: View, sr_ref: SRRef, host_ref: HostRef, device_config: Mapping[str, str]) -> bool:
    """Whether another process has destroyed the PBD with this device_config, and with it the secrets that it names."""
    try:
        _, pbd = find_pbds(view, sr_ref).get(host_ref, (None, {}))
    except (XapiError, XapiUnreachable):  # the error of the probe comes first
        return False
    return pbd.get("device_config") != device_config


def has_numbers(view: View, sr_ref: SRRef, sr_type: str | None = None) -> bool:
    """Whether the driver finds a LUN by its number: the driver of ``hba`` does not (docs/background/xapi.md 5.4)."""
    return sr_type_of(sr_type or view.record("SR", sr_ref)["type"]).has_lun_numbers


def is_master_alone(view: View, hosts: Iterable[HostRef] | None) -> bool:
    return set(view.hosts if hosts is None else hosts) <= {view.master}


def includes_master(view: View, hosts: Iterable[HostRef] | None) -> bool:
    """Whether these hosts (None: all) include the master."""
    return hosts is None or view.master in set(hosts)


def _plugged_configs(
    view: View, sr_ref: SRRef, hosts: Iterable[HostRef] | None
) -> dict[HostRef, Mapping[str, str]]:
    """Return the device_configs of these hosts on which the SR is plugged; that of the master if it is on none."""
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


def scsi_id_of(
    view: View, sr_ref: SRRef, lun: int, hosts: Iterable[HostRef] | None, proved: Collection[str | None]
) -> str:
    """Return the SCSI id of the LUN that has this number on all these hosts. Raises VolumeNotFound and WrongVolume.

    `proved` are the SCSI ids of the disks that the data proves to be the volume. If the hosts number the LUNs
    differently, such a LUN is returned if every host sees it, and one of them under this number.
    """
    seen = seen_luns(view, sr_ref, hosts)
    if not seen:  # another process has unplugged the SR
        raise XapiError("SR_HAS_NO_PBDS", [sr_ref], "SR.probe")
    for luns in seen.values():
        if luns.get(lun) in proved and all(luns[lun] in others.values() for others in seen.values()):
            return luns[lun]
    for host_ref, luns in seen.items():
        if lun not in luns:
            raise VolumeNotFound(f"LUN {lun} on host {name_of_host(view, host_ref)}", found=_in_words(luns))
    numbered = {host_ref: luns[lun] for host_ref, luns in seen.items()}
    check_same(view, lun, numbered)
    return next(iter(numbered.values()))


def check_same(view: View, lun: int | None, numbered: Mapping[HostRef, str]) -> None:
    """Raise WrongVolume unless all these hosts see one SCSI id under the number (None: as the only LUN)."""
    if len(set(numbered.values())) > 1:
        found = ", ".join(
            f"{scsi_id} on host {name_of_host(view, host)}" for host, scsi_id in numbered.items()
        )
        what = "as the only LUN" if lun is None else f"under number {lun}"
        raise WrongVolume(f"the same LUN {what} on all hosts", found=found)


def luns_on_master(view: View, sr_ref: SRRef) -> dict[int, str]:
    """Return the result of `luns_on` for the master; {} if the SR is not plugged there."""
    return seen_luns(view, sr_ref, [view.master]).get(view.master, {})


def number_of(luns: Mapping[int, str], scsi_id: str | None) -> int | None:
    """Return the number of the LUN with this SCSI id, or None."""
    return next((number for number, its_scsi_id in luns.items() if its_scsi_id == scsi_id), None)


def number_on_master(view: View, sr_ref: SRRef, lun: int, scsi_id: str) -> int:
    """Return the master's number of the LUN that another host sees as `lun`: the master introduces the LUN.

    To introduce another LUN would overwrite the record of that one. Raises WrongVolume and VolumeNotFound.
    """
    luns = luns_on_master(view, sr_ref)
    number = number_of(luns, scsi_id)
    if number is not None:
        return number
    what = f"SCSI id {scsi_id}, which the VM's host sees as LUN {lun}"
    if lun in luns:
        raise WrongVolume(
            what,
            found=f"SCSI id {luns[lun]} under that number on the pool's master: export the volume to the master, too",
        )
    raise VolumeNotFound(
        f"{what}, on the pool's master, host {name_of_host(view, view.master)}", found=_in_words(luns)
    )


def _in_words(luns: Mapping[int, str]) -> list[str]:
    return [f"LUNid {number}, SCSIid {scsi_id}" for number, scsi_id in luns.items()]


def name_of_host(view: View, host_ref: HostRef) -> str:
    host = view.record("host", host_ref)
    return f"{host['name_label']} ({host['uuid']})"


def cannot_be_asked(view: View) -> UnsupportedSRType:
    return UnsupportedSRType(LUN_LISTING_DRIVER, host=view.master, offered=view.sr_types)
