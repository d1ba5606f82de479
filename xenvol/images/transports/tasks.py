"""xapi's task tells the result of a transfer: xapi answers 200 before it reads a byte, and a connection only breaks.

xenvol makes a task for each transfer, and destroys it at the end. A disk that is plugged into a control domain
without a task is an orphan of a dead transfer, and xenvol unplugs it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from xenvol.errors import XapiError, XapiUnreachable
from xenvol.images.errors import TransferFailed
from xenvol.images.transports.base import Timeouts
from xenvol.pool.changes import make
from xenvol.pool.marks import IMAGE
from xenvol.pool.transfer_mark import Attempt
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View, gone_is_fine, is_gone
from xenvol.session.refs import TaskRef, VBDRef, VDIRef

_PENDING: Final = ("pending", "cancelling")
_BY_XAPI: Final = ("Importing raw VDI", "Exporting raw VDI")
"""Names of tasks that xapi makes itself for a client without one. They do not name the disk."""

_LATER: Final = 10.0
"""Seconds. A host releases a disk before it ends the task, so a VBD that is still there belongs to another transfer."""

log = logging.getLogger(__name__)


class TransferTask:
    """The task of one transfer."""

    def __init__(self, view: View, ref: TaskRef, *, what: str, call: str, timeouts: Timeouts) -> None:
        self._view = view
        self.ref = ref
        self.what = what
        """The transfer's name in errors: ``writing VDI …``."""
        self.call = call
        """``PUT /import_raw_vdi``."""
        self._timeouts = timeouts
        self.is_settled = False
        """Whether no host works on it any more, as far as xenvol knows."""
        self._record: Record = {"status": "pending"}

    def is_over(self) -> bool:
        """Ask xapi whether the task is over; one call. Raises TransferFailed if the task is gone, XapiUnreachable."""
        if self._record["status"] in _PENDING:
            try:
                self._record = self._view.call("task.get_record", self.ref)
            except XapiError as error:
                if is_gone(error, "task"):
                    raise TransferFailed(
                        self.what, problem="its task was destroyed, so its result is not known"
                    ) from error
                raise
        return self._record["status"] not in _PENDING

    def wait(self, seconds: float) -> bool:
        """Return whether the task ends within that time."""
        return self._timeouts.poll(self.is_over, seconds)

    def check(self, *, status: int | None = None) -> None:
        """Raise TransferFailed if the task has ended without success. Its cause is an XapiError with the parameters."""
        state = self._record["status"]
        if state in _PENDING or state == "success":
            return
        code, *params = self._record["error_info"] or [
            "TASK_CANCELLED" if state == "cancelled" else "UNKNOWN"
        ]
        cause = XapiError(code, params, self.call)
        raise TransferFailed(self.what, problem=str(cause), code=code, status=status) from cause

    def judge(self, broken: Exception | None) -> None:
        """After the end of the connection, return if the task succeeded.

        Raises TransferFailed, and XapiUnreachable if the task stays pending, as those of dead hosts do.
        """
        self.is_settled = True
        if not self.wait(self._timeouts.settle):
            cause = broken or TimeoutError(f"its task is still pending after {self._timeouts.settle:.0f} s")
            raise XapiUnreachable(self.call, cause) from broken
        self.check()

    def abandon(self, vdi_ref: VDIRef, error: BaseException | None = None) -> None:
        """End the transfer for `error`: wait until the host has released the disk, so that it can be destroyed.

        With an error it raises nothing; what is left becomes a note on that error.
        """
        self.is_settled = True
        left = None
        try:
            if self._record["status"] in _PENDING:
                self._cancel()
            if not self.wait(self._timeouts.settle):
                left = "the host has not ended it, and may still have the disk in its control domain"
            elif not self._timeouts.poll(
                lambda: not _stuck(self._view, vdi_ref), min(_LATER, self._timeouts.settle)
            ):
                left = "its disk is still in a control domain"
        except BaseException as failure:
            if error is None:
                raise
            left = f"it is not known whether the host has ended it ({type(failure).__name__}: {failure})"
        if left is not None:
            log.warning("%s: %s", self.what, left)
            if error is not None:
                error.add_note(f"{self.what}: {left}")

    def end(self) -> None:
        """Cancel a task that is still pending, since only an ended task can be destroyed."""
        if self._record["status"] in _PENDING:
            try:
                self._view.call("task.set_status", self.ref, "cancelled")
            except (XapiError, XapiUnreachable) as error:
                log.info("%s: its task stays pending: %s", self.what, error)

    def _cancel(self) -> None:
        """Ask the host to end it. The host also ends it when the connection is closed, so the answer does not
        matter."""
        try:
            self._view.call("task.cancel", self.ref)
        except (XapiError, XapiUnreachable) as error:
            log.info("%s: its task was not cancelled: %s", self.what, error)


@contextmanager
def transfer_task(view: View, what: str, *, call: str, timeouts: Timeouts) -> Iterator[TransferTask]:
    """Make a task for one transfer, and destroy it at the end of the block. Raises XapiError, XapiUnreachable."""
    unique = f"xenvol: {what} ({secrets.token_hex(8)})"  # finds the task after a missing answer
    undo = Undo()

    def look() -> TaskRef | None:
        return next(map(TaskRef, view.find("task", {"name_label": unique})), None)

    create = ("task.create", unique, "")
    ref = make(view, undo, f"created task {unique}", create, look=look, inverse=_destroy)
    task = TransferTask(view, ref, what=what, call=call, timeouts=timeouts)
    try:
        yield task
    finally:
        task.end()
        undo.unwind()  # xapi removes old tasks itself, so one that stays is not a failure


def _destroy(view: View, ref: TaskRef) -> None:
    """Destroy the task, with one retry. Idempotent."""
    try:
        _destroy_once(view, ref)
    except (XapiError, XapiUnreachable):
        _destroy_once(view, ref)


def _destroy_once(view: View, ref: TaskRef) -> None:
    try:
        view.call("task.destroy", ref)
    except XapiError as error:
        if error.code != "MAP_DUPLICATE_KEY" and not is_gone(error, "task"):
            raise


def release(view: View, vdi_ref: VDIRef, attempt: Attempt | None = None) -> bool:
    """Unplug a disk wherever an ended transfer left it; return whether it is free of all transfers.

    A host that died, or whose xapi restarted, leaves its VBD in the control domain (docs/background/requirements.md,
    R6); a VBD of this `attempt` may be on any VM. These stay, since they are in use: a VBD of another attempt, one
    with an operation under way, and one in a control domain while a task of the disk is pending. Idempotent. Raises
    XapiError, XapiUnreachable. One call if there is nothing to do, else three, and two for each VBD.
    """
    stuck = _stuck(view, vdi_ref, attempt)
    if not stuck:
        return True
    if _has_task(view, vdi_ref):
        return False
    is_free = True
    for vbd_ref, vbd in stuck.items():
        is_anothers = IMAGE in vbd["other_config"] and not (attempt is not None and attempt.has_marked(vbd))
        if is_anothers or vbd["current_operations"]:
            is_free = False
            continue
        log.warning("VDI %s was still in a control domain (VBD %s); xenvol unplugs it", vdi_ref, vbd["uuid"])
        remove_vbd(view, vbd_ref)
    return is_free


def remove_vbd(view: View, vbd_ref: VBDRef) -> None:
    """Unplug and destroy the VBD. Idempotent. Raises XapiError, XapiUnreachable."""
    try:
        view.call("VBD.unplug", vbd_ref)
    except XapiError as error:
        if is_gone(error, "VBD"):
            return
        if error.code != "DEVICE_ALREADY_DETACHED":
            raise
    except XapiUnreachable:
        with gone_is_fine("VBD"):
            if view.call("VBD.get_currently_attached", vbd_ref):
                raise
    try:
        with gone_is_fine("VBD"):
            view.call("VBD.destroy", vbd_ref)
    except XapiUnreachable:
        if _is_there(view, vbd_ref):
            raise


def _is_there(view: View, vbd_ref: VBDRef) -> bool:
    try:
        view.call("VBD.get_uuid", vbd_ref)
    except XapiError as error:
        if is_gone(error, "VBD"):
            return False
        raise
    return True


def _stuck(view: View, vdi_ref: VDIRef, attempt: Attempt | None = None) -> dict[VBDRef, Record]:
    """Return the disk's VBDs on control domains, and those of the attempt. Reads the VDI too if it has any VBD."""
    vbds = view.find("VBD", {"VDI": vdi_ref})
    if not vbds:
        return {}
    view.read({"VM": {vbd["VM"] for vbd in vbds.values()}, "VDI": [vdi_ref]})

    def is_stuck(vbd: Record) -> bool:
        vm = view.known("VM", vbd["VM"])
        is_ours = attempt is not None and attempt.has_marked(vbd)
        return is_ours or (vm is not None and bool(vm["is_control_domain"]))

    return {VBDRef(ref): vbd for ref, vbd in vbds.items() if is_stuck(vbd)}


def _has_task(view: View, vdi_ref: VDIRef) -> bool:
    """Return whether a task uses the disk. A task of another client, which names no disk, counts."""
    vdi = view.known("VDI", vdi_ref)
    if vdi is not None and vdi["current_operations"]:
        return True
    names = (vdi_ref, vdi["uuid"]) if vdi is not None else (vdi_ref,)
    return any(_is_of(task, names) for task in view.find("task", {"status": _PENDING}).values())


def _is_of(task: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    if task[
        "current_operations"
    ]:  # cancelled or destroyed; it stays pending only because its host does not know
        return False
    text = f"{task['name_label']} {task['name_description']}"
    return task["name_label"] in _BY_XAPI or any(name in text for name in names)
