"""A snapshot that is an export's says so before it is read, and is gone when that is done.

xapi lets nobody say anything of a snapshot in the call that makes it, but it inherits the other_config of its source.
So the source says for that moment who makes one, and whoever is killed then leaves a snapshot of which that is known.
"""

from __future__ import annotations

from xenvol.errors import XapiError
from xenvol.images.erasing import discard_disk
from xenvol.images.transfer_mark import Attempt
from xenvol.pool.changes import call_and_confirm
from xenvol.pool.marks import EXPORTED, IMAGE, IMAGE_OF
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View, gone_is_fine
from xenvol.session.refs import VDIRef


def take_snapshot(view: View, undo: Undo, vdi_ref: VDIRef, vdi_rec: Record, attempt: Attempt) -> VDIRef:
    """A snapshot of the disk, which `undo` erases. Raises XapiError, and then there is none; XapiUnreachable.

    After a silence nothing is taken for ours: it could be one that somebody else has made at that very moment.
    """
    key = EXPORTED + attempt.token
    marking = Undo()
    marking.did(f"marked VDI {vdi_rec['uuid']}", forget_export, view, vdi_ref, key)
    try:
        view.call("VDI.add_to_other_config", vdi_ref, key, attempt.word)
        snapshot_ref = _snapshot(view, vdi_ref, vdi_rec, key)
        undo.did(f"made a snapshot of VDI {vdi_rec['uuid']}", discard_disk, view, snapshot_ref, attempt)
        for inherited in {IMAGE, IMAGE_OF} & set(vdi_rec["other_config"]):
            view.call("VDI.remove_from_other_config", snapshot_ref, inherited)
        attempt.bind(view, snapshot_ref)
        _mark(view, snapshot_ref, attempt.word)
    except BaseException as error:
        marking.unwind(error)
        raise
    if marking.unwind():  # tried once more, when the snapshot goes
        undo.did(f"marked VDI {vdi_rec['uuid']}", forget_export, view, vdi_ref, key)
    return snapshot_ref


def _snapshot(view: View, vdi_ref: VDIRef, vdi_rec: Record, key: str) -> VDIRef:
    try:
        return VDIRef(view.call("VDI.snapshot", vdi_ref, {}))
    except XapiError:
        raise
    except BaseException as error:
        error.add_note(
            f"a snapshot of VDI {vdi_rec['uuid']} may have been made, with {key} in its other_config; it stays, since "
            "it could be somebody else's: `xenvol image sweep` tells of it"
        )
        raise


def _mark(view: View, snapshot_ref: VDIRef, word: str) -> None:
    call_and_confirm(
        view,
        ("VDI.add_to_other_config", snapshot_ref, IMAGE, word),
        is_done=lambda: bool(view.call("VDI.get_other_config", snapshot_ref).get(IMAGE) == word),
    )


def forget_export(view: View, vdi_ref: VDIRef, key: str) -> None:
    """The source is nobody's any more. Idempotent, as the call is."""
    with gone_is_fine("VDI"):
        view.call("VDI.remove_from_other_config", vdi_ref, key)
