"""Ask the storage of a backend itself, and plug its SR anew.

The pool's records are what a storage driver has said once. A server that died, a mount that was lost, and a file or a
LUN that is gone show only when the storage is asked:

* `reach` changes nothing. The storage is probed as if it were new, or its LUNs are listed.
* `check_mount` changes nothing. The driver reads the sizes through what is mounted.
* `scan` lets the driver list its disks. xapi then drops the record of a disk that is gone, with its marks, also while a
  VM has the disk. An SR of LUNs is never scanned: there that keeps all its disks from being unplugged for half a minute
  (docs/background/recordings.md, finding 8 (storage)).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from xenvol.errors import UnsupportedSRType, XapiError, XenVolError
from xenvol.pool.view import HOST_IS_DOWN, View
from xenvol.session.refs import HostRef, SRRef
from xenvol.sm import config, probing, srs
from xenvol.sm.context import Context
from xenvol.sm.errors import BackendNotReady, IncompleteConfig
from xenvol.sm.records import Backend
from xenvol.storage import known_pbds, scan_sr, seen_luns, vdis_of
from xenvol.storage.pbd import find_pbds, master_first
from xenvol.storage.sr import turn_beside_users
from xenvol.storage.srtypes import sr_type_of
from xenvol.storage.users import vbds_of

log = logging.getLogger(__name__)

_AT_ONCE = 8  # backends asked in parallel: each may wait for an array
_LISTS_LUNS = "lvmohba"  # its probe lists the LUNs of a host's adapters


def reach(view: View, backend: Backend, sr_ref: SRRef) -> None:
    """Reach the storage as at a plug: what is mounted or logged in may still seem to work after a server has gone.

    Raises XapiError or IncompleteConfig if it does not answer, BackendNotReady if it has lost the SR.
    """
    if backend.type.luns:
        luns_of(view, backend, sr_ref)
        return
    driver = srs.require_driver(view, backend.type.name)
    pbds = find_pbds(view, sr_ref)
    host_ref = next(iter(master_first(view, pbds)), None)
    if host_ref is None or not backend.type.can_probe or "SR_PROBE" not in driver["features"]:
        return
    wanted = config.parse(backend.sr_type, backend.params)
    device_config = pbds[host_ref][1]["device_config"]
    found = probing.probe(view, host_ref, backend.type, device_config, wanted.sm_config)
    if wanted.has_uuid and backend.sr_uuid not in found:
        raise BackendNotReady(backend.id, problem=f"the storage does not hold SR {backend.sr_uuid} any more")


def check_mount(view: View, backend: Backend, sr_ref: SRRef) -> None:
    """Raise XapiError if the SR's mount is lost on the pool's master. A driver of LUNs has none."""
    if not backend.type.luns:
        view.call("SR.update", sr_ref)


def scan(view: View, backend: Backend, sr_ref: SRRef) -> set[str] | None:
    """Let the storage driver list its disks; return the SCSI ids of LUNs, or None if its disks are none.

    Raises what `reach` raises.
    """
    if backend.type.luns:
        return luns_of(view, backend, sr_ref)
    scan_sr(view, sr_ref)
    reach(view, backend, sr_ref)
    return None


def luns_of(view: View, backend: Backend, sr_ref: SRRef) -> set[str] | None:
    """Return the SCSI ids of the LUNs that the hosts see; None if the pool has no driver that lists LUNs.

    Changes nothing. Raises XapiError.
    """
    try:
        if backend.type.has_lun_numbers:
            seen = seen_luns(view, sr_ref, None)
            return {scsi_id for luns in seen.values() for scsi_id in luns.values()}
        srs.require_driver(view, _LISTS_LUNS)
        probing.probe(view, view.master, sr_type_of(_LISTS_LUNS), {}, {})
    except IncompleteConfig as error:  # this is how it lists them
        return {choice.partition(" ")[0].removeprefix("SCSIid=") for choice in error.choices}
    except UnsupportedSRType:
        return None
    return set()


def scan_all(context: Context, backends: Collection[Backend]) -> dict[int, str]:
    """Scan the storage of several backends, in parallel; return what is wrong, by their ids."""

    def attempt(backend: Backend) -> str | None:
        view = context.view()
        try:
            sr_ref, _ = srs.get_sr(view, backend)
            scan(view, backend, sr_ref)
        except XenVolError as error:
            return str(error)
        return None

    made = [backend for backend in backends if backend.sr_uuid is not None]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="xenvol-scan") as pool:
        problems = zip(made, pool.map(attempt, made), strict=True)
        return {backend.id: problem for backend, problem in problems if problem is not None}


def replug(view: View, sr_ref: SRRef, *, beside_users: bool = False) -> bool:
    """Unplug and plug the SR on each host, which mounts it or logs in anew. Return False if VMs have disks of it.

    With `beside_users`, those hosts alone are left as they are on which a VM has a disk of it. Raises XapiError of the
    first host that refuses; the other hosts are plugged all the same.
    """
    in_use = _hosts_with_users(view, sr_ref)
    if in_use and not beside_users:
        return False
    refusal: XapiError | None = None
    find_pbds(view, sr_ref)
    with turn_beside_users(view, sr_ref, for_unplug=True):
        pbds = known_pbds(view, sr_ref)
        for host in master_first(view, pbds.keys() - in_use):
            pbd_ref, pbd = pbds[host]
            try:
                if pbd["currently_attached"]:
                    view.call("PBD.unplug", pbd_ref)
                view.call("PBD.plug", pbd_ref)
            except XapiError as error:
                if error.code not in HOST_IS_DOWN:
                    error.add_note(f"this was on host {view.record('host', host)['name_label']}")
                    refusal = refusal or error
    if refusal is not None:
        raise refusal
    log.info("SR %s was plugged anew", sr_ref)
    return True


def _hosts_with_users(view: View, sr_ref: SRRef) -> set[HostRef]:
    """Return the hosts on which a VM has a disk of the SR plugged."""
    vbds = vbds_of(view, vdis_of(view, sr_ref).values()).values()
    plugged = {vbd["VM"] for vbd in vbds if vbd["currently_attached"]}
    view.read({"VM": plugged})
    return {HostRef(vm["resident_on"]) for ref in plugged if (vm := view.known("VM", ref)) is not None}
