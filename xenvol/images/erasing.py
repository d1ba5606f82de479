"""The one place of images that erases: a disk, or a snapshot, that a transfer made for itself and handed to nobody."""

from __future__ import annotations

from xenvol.errors import XapiError, XapiUnreachable
from xenvol.images.transfer_mark import Attempt
from xenvol.images.transports import release
from xenvol.pool.view import View, is_gone
from xenvol.session.refs import VDIRef


def discard_disk(view: View, vdi_ref: VDIRef, attempt: Attempt) -> None:
    """Take it out of the VM in which it was filled or read, if it was left there, and erase it. Idempotent."""
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
