"""A volume's VDI in the pool: made, copied, found again, resized, erased; the one place that calls VDI.destroy.

xapi chooses the uuid of a new VDI, so a VDI carries, from the call that makes it on, a mark with the token of the
row that it is made for (`marks.CREATING`), until the row names it. What carries such a mark and is named by no row
was left by somebody who died; what does not carry one is never erased by anybody but for its own volume.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xenvol.errors import VolumeInUse, VolumeNotFound, XapiError
from xenvol.marks import CONNECTED, CREATING, MANAGED
from xenvol.refs import SRRef, VDIRef
from xenvol.sm.records import Volume
from xenvol.storage import vdis_of
from xenvol.undo import Undo
from xenvol.verbs import make
from xenvol.view import Record, View, gone_is_fine, is_gone


def label_of(volume: Volume) -> str:
    """The name_label of its VDI."""
    return volume.name or f"{'snapshot' if volume.is_snapshot else 'volume'}-{volume.id}"


def create_vdi(view: View, undo: Undo, sr_ref: SRRef, volume: Volume, sm_config: Mapping[str, str]) -> VDIRef:
    """A new, empty disk for the volume. Never call it on an SR whose VDIs are LUNs (facts/requirements.md 0.1)."""
    record: dict[str, Any] = {
        "name_label": label_of(volume),
        "name_description": f"xenvol volume {volume.id}",
        "SR": sr_ref,
        "virtual_size": volume.size,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {CREATING + volume.token: volume.id, MANAGED: volume.id},
        "xenstore_data": {},
        "sm_config": dict(sm_config),
        "tags": [],
    }
    return make(
        view,
        undo,
        f"made a VDI for volume {volume.id}",
        ("VDI.create", record),
        look=lambda: find_made(view, sr_ref, volume),
        inverse=erase,
    )


def copy_vdi(view: View, undo: Undo, source_ref: VDIRef, volume: Volume, call: tuple[Any, ...]) -> VDIRef:
    """A copy of a disk, by VDI.snapshot, VDI.clone or VDI.copy (`call`), for the volume.

    A copy inherits other_config, and nothing that the caller says: so the mark is put on the source, and taken from
    both when the row names the copy (`settle_vdi`).
    """
    source = view.record("VDI", source_ref)
    _mark(view, undo, source_ref, CREATING + volume.token, volume.id)
    return make(
        view,
        undo,
        f"copied VDI {source['uuid']} for volume {volume.id}",
        (call[0], source_ref, *call[1:]),
        look=lambda: find_made(view, SRRef(source["SR"]), volume, source=source),
        inverse=erase,
    )


def find_made(view: View, sr_ref: SRRef, volume: Volume, *, source: Record | None = None) -> VDIRef | None:
    """A VDI that an earlier attempt made for the volume and that nobody has recorded; of several the first."""
    label = label_of(volume) if source is None else source["name_label"]
    where = {"SR": sr_ref} if '"' in label else {"SR": sr_ref, "name_label": label}
    made = {
        ref: vdi
        for ref, vdi in view.find("VDI", where).items()
        if CREATING + volume.token in vdi["other_config"]
        and (source is None or vdi["uuid"] != source["uuid"])
    }
    return VDIRef(min(made, key=lambda ref: (made[ref]["snapshot_time"], ref))) if made else None


def settle_vdi(view: View, vdi_ref: VDIRef, volume: Volume) -> None:
    """What is known of a VDI once its row names it: its own name, and no mark of its making. Idempotent."""
    vdi = view.record("VDI", vdi_ref)
    if vdi["name_label"] != label_of(volume) and volume.source_id is not None:
        view.call("VDI.set_name_label", vdi_ref, label_of(volume))
        view.call("VDI.set_name_description", vdi_ref, f"xenvol volume {volume.id}")
    for key in [key for key in vdi["other_config"] if key.startswith(CREATING)]:
        view.call("VDI.remove_from_other_config", vdi_ref, key)
    if vdi["other_config"].get(MANAGED) != volume.id:
        view.call("VDI.remove_from_other_config", vdi_ref, MANAGED)
        view.call("VDI.add_to_other_config", vdi_ref, MANAGED, volume.id)


def unmark(view: View, vdi_ref: VDIRef, token: str) -> None:
    """No copy of this disk is being made for that row any more. Idempotent."""
    with gone_is_fine("VDI"):
        view.call("VDI.remove_from_other_config", vdi_ref, CREATING + token)


def get_vdi(view: View, sr_ref: SRRef, volume: Volume) -> tuple[VDIRef, Record]:
    """The volume's disk. Raises VolumeNotFound where the pool has it not; an SR that has lost it says so."""
    found = view.find("VDI", {"uuid": volume.vdi_uuid or ""})
    if not found:
        sr = view.record("SR", sr_ref)
        raise VolumeNotFound(
            f"VDI {volume.vdi_uuid} of volume {volume.id} in SR {sr['name_label']}",
            found=[vdi["uuid"] for vdi in vdis_of(view, sr_ref).values()],
        )
    ((ref, vdi),) = found.items()
    return VDIRef(ref), vdi


def erase(view: View, vdi_ref: VDIRef) -> None:
    """Erase the disk. Idempotent.

    Raises VolumeInUse where a VM has it, also one that is shut down: xapi itself would only mind a plugged one, and
    would drop the VM's slot along with the disk (facts/xapi.md, VDI.destroy).
    """
    try:
        vdi = view.call("VDI.get_record", vdi_ref)
        check_unused(view, vdi)
        view.call("VDI.destroy", vdi_ref)
    except XapiError as error:
        if not is_gone(error, "VDI"):
            raise


def check_unused(view: View, vdi: Record) -> None:
    """Raise VolumeInUse where a VM has the disk, or it was connected for one that is to come."""
    if CONNECTED in vdi["other_config"]:
        whoever = "whoever connected it without a VM (`xenvol disconnect`)"
        raise VolumeInUse(vdi["uuid"], users=[whoever], is_to_go=True)
    if users := users_of(view, vdi):
        raise VolumeInUse(vdi["uuid"], users=users, is_to_go=True)


def users_of(view: View, vdi: Record) -> list[str]:
    """The VMs that have a slot with the disk in it, in words."""
    if not vdi["VBDs"]:
        return []
    view.read({"VBD": vdi["VBDs"]})
    vbds = [vbd for ref in vdi["VBDs"] if (vbd := view.known("VBD", ref)) is not None]
    view.read({"VM": {vbd["VM"] for vbd in vbds}})
    vms = [(view.known("VM", vbd["VM"]), vbd) for vbd in vbds]
    return [f"{vm['name_label']} ({vbd['device'] or vbd['userdevice']})" for vm, vbd in vms if vm is not None]


def _mark(view: View, undo: Undo, vdi_ref: VDIRef, key: str, value: str) -> None:
    try:
        view.call("VDI.add_to_other_config", vdi_ref, key, value)
    except XapiError as error:
        if error.code != "MAP_DUPLICATE_KEY":  # an earlier attempt got as far
            raise
    undo.did(f"marked VDI {vdi_ref}", unmark, view, vdi_ref, key.removeprefix(CREATING))
