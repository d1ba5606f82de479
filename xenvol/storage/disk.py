"""A disk that is a file or a volume of an SR, known by its uuid: the SR is found or introduced, the disk is there."""

from __future__ import annotations

from collections.abc import Iterable

from xenvol.errors import VolumeNotFound
from xenvol.refs import HostRef, SRRef, VDIRef
from xenvol.storage.sr import SRSpec, connect_sr, find_sr, release_sr, require_sr_type
from xenvol.storage.vdi import find_vdi
from xenvol.undo import Undo
from xenvol.view import Record, View


def connect_disk(
    view: View, undo: Undo, spec: SRSpec, vdi_uuid: str, hosts: Iterable[HostRef] | None
) -> tuple[VDIRef, Record]:
    """The disk, reachable on these hosts, through whichever SR of the pool has it already, else through ours.

    A uuid is in a pool only once, so the SR that has the disk is the one to use, whoever introduced it. An SR
    that was plugged before the disk came is scanned once. Raises VolumeNotFound.
    """
    require_sr_type(view, spec.type)
    found = find_vdi(view, vdi_uuid)
    if found is not None:
        vdi_ref, vdi = found
        connect_sr(view, undo, spec, hosts, found=SRRef(vdi["SR"]))
        return vdi_ref, vdi
    sr_ref, is_new = connect_sr(view, undo, spec, hosts)
    found = find_vdi(view, vdi_uuid)
    if found is None and not is_new:
        view.call("SR.scan", sr_ref)
        found = find_vdi(view, vdi_uuid)
    if found is None:
        raise VolumeNotFound(
            f"disk {vdi_uuid} in SR {spec.name_label}",
            found=[vdi["uuid"] for vdi in view.find("VDI", {"SR": sr_ref}).values()],
        )
    return found


def disconnect_disk(view: View, sr_uuid: str, vdi_uuid: str | None) -> None:
    """Release the SR that has the disk, and the one that we would have introduced for it, where nobody uses them."""
    found = None if vdi_uuid is None else find_vdi(view, vdi_uuid)
    sr_ref = find_sr(view, sr_uuid) if found is None else SRRef(found[1]["SR"])
    if sr_ref is not None:
        release_sr(view, sr_ref)


def size_after_scan(view: View, vdi_uuid: str) -> int:
    """What the storage says of the disk's size now, in bytes. Raises VolumeNotFound when no SR has it."""
    found = find_vdi(view, vdi_uuid)
    if found is None:
        raise VolumeNotFound(f"disk {vdi_uuid}")
    vdi_ref, vdi = found
    view.call("SR.scan", vdi["SR"])
    return int(view.call("VDI.get_virtual_size", vdi_ref))
