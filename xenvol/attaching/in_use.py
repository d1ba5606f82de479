"""Refuse a disk that another VM uses, mark a disk that has no VM yet as in use, and release the SR of a disk."""

from __future__ import annotations

from functools import partial

from xenvol import storage
from xenvol.attaching.vm import VM
from xenvol.connection_data.connection_info import ConnectionInfo
from xenvol.errors import (
    AttachedMeanwhile,
    UnmanagedVDI,
    VolumeInUse,
    XapiError,
)
from xenvol.pool.changes import change
from xenvol.pool.marks import CONNECTED, JOINED, SR, VOLUME
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View, gone_is_fine, is_gone
from xenvol.session.refs import SRRef, VBDRef, VDIRef
from xenvol.storage.users import held_as, in_words, is_held, is_held_by_another, is_marked


def check_not_in_use(
    view: View, vdi_ref: VDIRef, info: ConnectionInfo, *, vm: VM, mode: str, but: VBDRef | None = None
) -> None:
    """Raise VolumeInUse if another VM's use of the disk excludes this one, and UnmanagedVDI if xapi gives it to no VM.

    xapi plugs a disk twice only if all users only read, or if it is sharable. VBDs that are not plugged do not count.
    Raises AttachedMeanwhile if another attempt has attached the volume to the same VM. The VBD `but` does not count.
    """
    vdi = view.record("VDI", vdi_ref)
    check_not_held_by_another(vdi, info)
    if not vdi["managed"]:
        raise UnmanagedVDI(vdi["uuid"])
    if not vdi["VBDs"] or (info.multiattach and vdi["sharable"]):
        return
    found = view.find("VBD", {"VDI": vdi_ref})
    users = [vbd for ref, vbd in found.items() if vbd["currently_attached"] and ref != but]
    if any(vbd["VM"] == vm.ref and is_marked(vbd) for vbd in users):
        raise AttachedMeanwhile(str(vm))
    if users and (mode == "RW" or any(vbd["mode"] == "RW" for vbd in users)):
        raise VolumeInUse(vdi["uuid"], users=in_words(view, users), can_share=not info.multiattach)


def check_not_held_by_another(vdi: Record, info: ConnectionInfo) -> None:
    """Raise VolumeInUse if the disk was connected without a VM as a volume of another id: one LUN under two ids."""
    if is_held_by_another(vdi, info.volume_id):
        users = [f"volume {held_as(vdi)[VOLUME]}, which is connected without a VM"]
        raise VolumeInUse(vdi["uuid"], users=users, is_to_go=True)


def hold(view: View, undo: Undo, vdi_ref: VDIRef, vdi: Record, info: ConnectionInfo) -> None:
    """Mark a disk without a VBD as in use, and as which volume, so that other processes spare it.

    Idempotent, also if another process sets the mark first. Raises VolumeInUse if the disk is held as another volume.
    """
    check_not_held_by_another(vdi, info)
    if is_held(vdi):
        return
    # a disk that is a copy has inherited the marks of its source
    for mark in {CONNECTED, JOINED} & set(vdi["other_config"]):
        view.call("VDI.remove_from_other_config", vdi_ref, mark)
    if vdi["SR"] in view.joined:
        _mark(view, undo, vdi_ref, JOINED, "")
    text = f"{vdi['uuid']} {info.driver_volume_type} {info.volume_id or ''}"
    if not _mark(view, undo, vdi_ref, CONNECTED, text):
        other_config = view.call("VDI.get_other_config", vdi_ref)
        check_not_held_by_another({**vdi, "other_config": other_config}, info)


def _mark(view: View, undo: Undo, vdi_ref: VDIRef, mark: str, text: str) -> bool:
    """Set the mark. Return False if another process has set it."""

    def unmark() -> None:
        with gone_is_fine("VDI"):
            view.call("VDI.remove_from_other_config", vdi_ref, mark)

    try:
        change(
            view,
            undo,
            f"marked VDI {vdi_ref} as {mark}",
            ("VDI.add_to_other_config", vdi_ref, mark, text),
            look=lambda: mark in view.call("VDI.get_other_config", vdi_ref),
            inverse=unmark,
        )
    except XapiError as error:
        if error.code != "MAP_DUPLICATE_KEY":
            raise
        return False
    return True


def _is_same(one: Record, other: Record) -> bool:
    return bool(one["uuid"] == other["uuid"])


def release_disk(view: View, vbd: Record) -> None:
    """Release the SR of a disk whose VBD was taken out of its VM. Works also if the disk's record is gone."""
    vdi = view.known("VDI", vbd["VDI"])
    if vdi is None:
        if is_marked(vbd) and SR in vbd["other_config"]:
            storage.release_sr(view, SRRef(vbd["other_config"][SR]))
        return
    sr_ref = SRRef(vdi["SR"])
    view.forget("SR", sr_ref)  # the unplug may have taken long: read the PBDs and the turn mark again
    try:
        sr = view.record("SR", sr_ref)
    except XapiError as error:
        if is_gone(error, "SR"):
            return
        raise
    # a disk that is held as another volume stays in use
    is_others = is_marked(vbd) and is_held_by_another(vdi, vbd["other_config"][VOLUME])
    of = (lambda other: False) if is_others else partial(_is_same, vdi)
    if storage.is_lun_per_vdi(sr["type"]) and "LUNid" in vdi["sm_config"]:
        storage.release_lun(view, sr_ref, int(vdi["sm_config"]["LUNid"]), of=of)
    else:
        storage.release_sr(view, sr_ref, of=of)


def release_vdi(view: View, vdi_ref: VDIRef) -> None:
    """Release the SR of a disk, unless the disk is in use. Does nothing if the disk is gone."""
    with gone_is_fine("VDI"):
        vdi = view.record("VDI", vdi_ref)
        storage.release_sr(view, SRRef(vdi["SR"]), of=partial(_is_same, vdi))
