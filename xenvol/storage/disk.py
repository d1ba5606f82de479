"""A disk that is a file or a volume of an SR, known by its uuid: the SR is found or introduced, the disk is there."""

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
    """The disk, reachable on these hosts, through the SR of the pool that has it already, else through ours.

    An SR that was plugged before the disk came is scanned once. Raises VolumeNotFound; and WrongVolume where the
    uuid is in an SR of another place: somebody copied the file, and which copy is meant nobody can know.
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
    """Release the SR that has the disk, or the one that we would have introduced for it, where nobody uses it.

    A disk that is held as another volume than `volume_id` is in use: stale data may name the file of another volume.
    """
    found = None if vdi_uuid is None else find_vdi(view, vdi_uuid)
    sr_ref = find_sr(view, sr_uuid) if found is None else SRRef(found[1]["SR"])
    if sr_ref is not None:
        release_sr(view, sr_ref, of=partial(_is_own, vdi_uuid, volume_id))


def _is_own(vdi_uuid: str | None, volume_id: object, vdi: Record) -> bool:
    return bool(vdi["uuid"] == vdi_uuid) and not is_held_by_another(vdi, volume_id)


def _check_place(view: View, spec: SRSpec, sr_ref: SRRef) -> None:
    """The SR is the one that is meant, by its uuid; or its data lies in the very same directory.

    That can be known only where the directory has not the uuid in its name: of ``file``, and of ``nfs`` with
    nosubdir. Elsewhere another uuid is another place.
    """
    sr = view.record("SR", sr_ref)
    if sr["uuid"] == spec.uuid:
        return
    maps = (spec.sm_config, sr["sm_config"])
    has_uuid = [sr_type_of(spec.type).has_uuid and sm_config.get("nosubdir") != "true" for sm_config in maps]
    meant = {key: value for key, value in spec.device_config.items() if key in _PLACES}
    places = [pbd["device_config"] for _, pbd in find_pbds(view, sr_ref).values()]
    is_there = bool(meant) and any(meant.items() <= place.items() for place in places)
    if sr["type"] != spec.type or any(has_uuid) or not is_there:
        place = ", ".join(map(str, meant.values())) or f"SR {spec.uuid}"
        raise WrongVolume(
            f"a disk at {place}", found=f"one of that uuid in SR {sr['name_label']} ({sr['uuid']})"
        )


_PLACES = ("server", "serverpath", "location")
"""Keys of a device_config that say where an SR's data lies."""


def size_after_scan(view: View, vdi_uuid: str) -> int:
    """What the storage says of the disk's size now, in bytes. Raises VolumeNotFound when no SR has it."""
    found = find_vdi(view, vdi_uuid)
    if found is None:
        raise VolumeNotFound(f"disk {vdi_uuid}")
    vdi_ref, vdi = found
    scan_sr(view, SRRef(vdi["SR"]))
    return int(view.call("VDI.get_virtual_size", vdi_ref))
