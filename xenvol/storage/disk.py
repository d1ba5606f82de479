"""Connect and disconnect a disk that is a file or a logical volume of an SR, and is named by its uuid."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from xenvol.errors import VolumeNotFound, WrongVolume
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View
from xenvol.session.refs import HostRef, SRRef, VDIRef
from xenvol.storage.pbd import find_pbds
from xenvol.storage.release import release_sr
from xenvol.storage.sr import SRSpec, connect_sr, find_sr, require_sr, require_sr_type, scan_sr
from xenvol.storage.srtypes import sr_type_of
from xenvol.storage.turn import turn
from xenvol.storage.users import is_held_by_another
from xenvol.storage.vdi import find_vdi


def connect_disk(
    view: View, undo: Undo, spec: SRSpec, vdi_uuid: str, hosts: Iterable[HostRef] | None
) -> tuple[VDIRef, Record]:
    """Make the disk reachable on these hosts (None: on all), and return it. Idempotent.

    If the pool has the disk in an SR, that SR is used; else the SR of `spec`, which is introduced if it is missing. An
    SR that was plugged before the disk existed is scanned once. Raises VolumeNotFound. Raises WrongVolume if the uuid
    is in an SR with another location: then the file was copied, and xenvol cannot know which copy is meant.
    """
    require_sr_type(view, spec.type)
    found = find_vdi(view, vdi_uuid)
    if found is not None:
        vdi_ref, vdi = found
        _check_place(view, spec, SRRef(vdi["SR"]))
        connect_sr(view, undo, spec, hosts, found=SRRef(vdi["SR"]))
        return vdi_ref, vdi
    sr_ref, is_new = connect_sr(view, undo, spec, hosts)
    found = find_vdi(view, vdi_uuid)
    if found is None and not is_new:
        with turn(view, sr_ref):
            view.call("SR.scan", sr_ref)
        found = find_vdi(view, vdi_uuid)
    if found is None:
        require_sr(view, sr_ref)
        raise VolumeNotFound(
            f"disk {vdi_uuid} in SR {spec.name_label}",
            found=[vdi["uuid"] for vdi in view.find("VDI", {"SR": sr_ref}).values()],
        )
    return found


def disconnect_disk(view: View, sr_uuid: str, vdi_uuid: str | None, *, volume_id: object = None) -> None:
    """Release the SR of the disk if nothing uses it. Idempotent.

    If the pool has no such disk, release the SR with `sr_uuid`, which xenvol would have introduced. A disk that is held
    as another volume than `volume_id` is in use: stale data may name the file of another volume.
    """
    found = None if vdi_uuid is None else find_vdi(view, vdi_uuid)
    sr_ref = find_sr(view, sr_uuid) if found is None else SRRef(found[1]["SR"])
    if sr_ref is not None:
        release_sr(view, sr_ref, of=partial(_is_own, vdi_uuid, volume_id))


def _is_own(vdi_uuid: str | None, volume_id: object, vdi: Record) -> bool:
    return bool(vdi["uuid"] == vdi_uuid) and not is_held_by_another(vdi, volume_id)


def _check_place(view: View, spec: SRSpec, sr_ref: SRRef) -> None:
    """Raise WrongVolume unless the SR has the uuid of `spec`, or keeps its data in the same directory.

    The directory proves this only if its name does not contain the uuid of the SR: for ``file``, and for ``nfs`` with
    nosubdir. For other types, another uuid means another location.
    """
    sr = view.record("SR", sr_ref)
    if sr["uuid"] == spec.uuid:
        return
    maps = (spec.sm_config, sr["sm_config"])
    has_uuid = [sr_type_of(spec.type).has_uuid and sm_config.get("nosubdir") != "true" for sm_config in maps]
    meant = {key: value for key, value in spec.device_config.items() if key in _LOCATION_KEYS}
    places = [pbd["device_config"] for _, pbd in find_pbds(view, sr_ref).values()]
    is_there = bool(meant) and any(meant.items() <= place.items() for place in places)
    if sr["type"] != spec.type or any(has_uuid) or not is_there:
        place = ", ".join(map(str, meant.values())) or f"SR {spec.uuid}"
        raise WrongVolume(
            f"a disk at {place}", found=f"a disk with that uuid in SR {sr['name_label']} ({sr['uuid']})"
        )


_LOCATION_KEYS = ("server", "serverpath", "location")
"""Keys of a device_config that name the location of an SR's data."""


def size_after_scan(view: View, vdi_uuid: str) -> int:
    """Scan the SR, and return the size of the disk in bytes. Raises VolumeNotFound if no SR has the disk."""
    found = find_vdi(view, vdi_uuid)
    if found is None:
        raise VolumeNotFound(f"disk {vdi_uuid}")
    vdi_ref, vdi = found
    scan_sr(view, SRRef(vdi["SR"]))
    return int(view.call("VDI.get_virtual_size", vdi_ref))
