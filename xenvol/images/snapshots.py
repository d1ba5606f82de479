"""A snapshot that is an export's says so; it is made, found again after a silence, and gone when it has been read.

xapi lets nobody say anything of a snapshot in the call that makes it, but it inherits the other_config of its source.
So the source says for that moment whose the next snapshot is, and the snapshot says it for good before it is read.
"""

from __future__ import annotations

from functools import partial

from xenvol.errors import XapiError, XapiUnreachable
from xenvol.images.attempts import Attempt
from xenvol.images.discarding import discard_disk
from xenvol.marks import EXPORTED, IMAGE
from xenvol.refs import VDIRef
from xenvol.undo import Undo
from xenvol.verbs import make
from xenvol.view import Record, View, gone_is_fine


def take_snapshot(view: View, undo: Undo, vdi_ref: VDIRef, vdi: Record, attempt: Attempt) -> VDIRef:
    """A snapshot of the disk, which `undo` erases. Raises XapiError, XapiUnreachable; then there is none."""
    (word,) = attempt.mark.values()
    marking = Undo()
    marking.did(f"marked VDI {vdi['uuid']}", forget_export, view, vdi_ref)
    try:
        if EXPORTED in vdi["other_config"]:  # of an attempt that died
            forget_export(view, vdi_ref)
        view.call("VDI.add_to_other_config", vdi_ref, EXPORTED, word)

        def look() -> VDIRef | None:
            found = view.find("VDI", {"snapshot_of": vdi_ref})
            ours = [ref for ref, each in found.items() if _is_ours(each, word)]
            return VDIRef(ours[0]) if len(ours) == 1 else None

        snapshot_ref: VDIRef = make(
            view,
            undo,
            f"made a snapshot of VDI {vdi['uuid']}",
            ("VDI.snapshot", vdi_ref, {}),
            look=look,
            inverse=partial(discard_disk, attempt=attempt),
        )
        _mark(view, snapshot_ref, word)
        attempt.bind(view, snapshot_ref)
    except BaseException as error:
        marking.unwind(error)
        raise
    if marking.unwind():  # tried once more, when the snapshot goes
        undo.did(f"marked VDI {vdi['uuid']}", forget_export, view, vdi_ref)
    return snapshot_ref


def _is_ours(vdi: Record, word: str) -> bool:
    """A snapshot of a whole VM has slots; ours is nobody's."""
    return bool(vdi["is_a_snapshot"] and not vdi["VBDs"] and vdi["other_config"].get(EXPORTED) == word)


def _mark(view: View, snapshot_ref: VDIRef, word: str) -> None:
    try:
        view.call("VDI.add_to_other_config", snapshot_ref, IMAGE, word)
    except XapiError as error:
        if error.code != "MAP_DUPLICATE_KEY":
            raise
    except XapiUnreachable:
        if view.call("VDI.get_other_config", snapshot_ref).get(IMAGE) != word:
            raise


def forget_export(view: View, vdi_ref: VDIRef) -> None:
    """The source is nobody's any more. Idempotent, as the call is."""
    with gone_is_fine("VDI"):
        view.call("VDI.remove_from_other_config", vdi_ref, EXPORTED)
