"""The VDIs that a transfer makes: the new disk of an import, the snapshot of an export; and the one place that erases.

Each VDI has the transfer mark. xapi takes no other_config in the call that makes a snapshot. But the snapshot
inherits the other_config of its source. So the source has the export's mark for that moment, and a snapshot whose
export was killed still names that export.
"""

from __future__ import annotations

from functools import partial

from xenvol.errors import XapiError, XapiUnreachable
from xenvol.images.transports import release
from xenvol.pool.changes import call_and_confirm, make
from xenvol.pool.marks import EXPORTED, IMAGE, IMAGE_OF
from xenvol.pool.transfer_mark import Attempt, check_is_whole
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View, gone_is_fine, is_gone
from xenvol.session.refs import VDIRef
from xenvol.storage import vdis_of


def create_marked_vdi(view: View, undo: Undo, record: Record, attempt: Attempt) -> VDIRef:
    """Make a VDI that has the mark of this attempt. Do not call it where VDIs are LUNs: see `check_takes_disks`."""

    def look() -> VDIRef | None:
        ours = [ref for ref, vdi in vdis_of(view, record["SR"]).items() if attempt.has_marked(vdi)]
        return next(iter(ours), None)

    vdi_ref: VDIRef = make(
        view,
        undo,
        f"made VDI {record['name_label']!r}",
        ("VDI.create", {**record, "other_config": {**record["other_config"], **attempt.mark}}),
        look=look,
        inverse=partial(discard_vdi, attempt=attempt),
    )
    return vdi_ref


def take_snapshot(view: View, undo: Undo, vdi_ref: VDIRef, vdi_rec: Record, attempt: Attempt) -> VDIRef:
    """Snapshot the disk; `undo` erases the snapshot. Raises XapiError, and then there is none; XapiUnreachable.

    If the answer is missing, no snapshot counts as ours: another process may have made one at that moment.
    """
    key = EXPORTED + attempt.token
    marking = Undo()
    marking.did(f"marked VDI {vdi_rec['uuid']}", forget_export, view, vdi_ref, key)
    try:
        view.call("VDI.add_to_other_config", vdi_ref, key, attempt.text)
        snapshot_ref = _snapshot(view, vdi_ref, vdi_rec, key)
        undo.did(f"made a snapshot of VDI {vdi_rec['uuid']}", discard_vdi, view, snapshot_ref, attempt)
        for inherited in {IMAGE, IMAGE_OF} & set(vdi_rec["other_config"]):
            view.call("VDI.remove_from_other_config", snapshot_ref, inherited)
        attempt.bind(view, snapshot_ref)
        # an import may have begun since the disk was looked at
        check_is_whole(view.record("VDI", snapshot_ref))
        _mark(view, snapshot_ref, attempt.text)
    except BaseException as error:
        marking.unwind(error)
        raise
    if marking.unwind():  # tried once more when the snapshot is erased
        undo.did(f"marked VDI {vdi_rec['uuid']}", forget_export, view, vdi_ref, key)
    return snapshot_ref


def _snapshot(view: View, vdi_ref: VDIRef, vdi_rec: Record, key: str) -> VDIRef:
    try:
        return VDIRef(view.call("VDI.snapshot", vdi_ref, {}))
    except XapiError:
        raise
    except BaseException as error:
        error.add_note(
            f"xapi may have made a snapshot of VDI {vdi_rec['uuid']}, with {key} in its other_config. xenvol keeps it, "
            "since another process may have made it: `xenvol image sweep` lists it"
        )
        raise


def _mark(view: View, snapshot_ref: VDIRef, text: str) -> None:
    call_and_confirm(
        view,
        ("VDI.add_to_other_config", snapshot_ref, IMAGE, text),
        is_done=lambda: bool(view.call("VDI.get_other_config", snapshot_ref).get(IMAGE) == text),
    )


def forget_export(view: View, vdi_ref: VDIRef, key: str) -> None:
    """Remove the export's mark from the source of a snapshot. Idempotent."""
    with gone_is_fine("VDI"):
        view.call("VDI.remove_from_other_config", vdi_ref, key)


def discard_vdi(view: View, vdi_ref: VDIRef, attempt: Attempt) -> None:
    """Erase a VDI that this attempt made, and first the VBD through which it was written or read. Idempotent."""
    try:
        release(view, vdi_ref, attempt)
        view.call("VDI.destroy", vdi_ref)
    except XapiError as error:
        if not is_gone(error, "VDI"):
            raise
    except XapiUnreachable:
        try:
            view.call("VDI.get_uuid", vdi_ref)
        except XapiError as error:
            if is_gone(error, "VDI"):
                return
        raise
