"""Doing something to the hypervisor: recorded when it has succeeded, and looked up when nobody knows.

A refusal did not happen and leaves no record. After a silence or an interruption it may have happened, and after
INTERNAL_ERROR as well: xapi says that also of an exception that comes after the deed (docs/background/recordings.md,
finding 3 (xapi)). Then it is looked up; what is found is on the record like anything else, and is no failure any more.

The error of the call is the one that leaves. A look that fails, too, becomes a note on it, and the record says
"perhaps": the undo looks again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from xenvol.errors import XapiError, XapiUnreachable
from xenvol.pool.undo import Undo
from xenvol.pool.view import View, is_gone

Ref = TypeVar("Ref", bound=str)
T = TypeVar("T")

LATE_REFUSALS: Final = frozenset({"INTERNAL_ERROR"})
"""Codes of refusals that can come after the deed."""


def make(
    view: View,
    undo: Undo,
    description: str,
    call: tuple[Any, ...],
    *,
    look: Callable[[], Ref | None],
    inverse: Callable[[View, Ref], object],
) -> Ref:
    """Make an object with `call` (its name and parameters), and return its reference.

    `look` finds the object that this very call would have made. Raises XapiError and XapiUnreachable, when it is not
    there either, and any interrupt.
    """

    def unmake_what_is_there() -> None:
        there = look()
        if there is not None:
            inverse(view, there)

    try:
        ref: Ref = view.call(*call)
    except BaseException as error:
        if not _may_have_happened(error):
            raise
        found, is_known = None, False
        try:
            found, is_known = look(), True
        except Exception as failure:  # noqa: BLE001  # the first error wins; a look has no part in it
            _note(error, failure)
        finally:  # also where the look is interrupted
            if not is_known:
                undo.did(f"{description}, perhaps", unmake_what_is_there)
        if found is None:
            raise
        undo.did(description, inverse, view, found)
        if not isinstance(error, XapiUnreachable | XapiError):
            raise
        return found
    undo.did(description, inverse, view, ref)
    return ref


def change(
    view: View,
    undo: Undo | None,
    description: str,
    call: tuple[Any, ...],
    *,
    look: Callable[[], bool],
    inverse: Callable[[], object] | None = None,
) -> None:
    """Bring an object into another state with `call`; `look` tells whether it is in that state.

    Without an `undo` nothing is recorded, and no `inverse` is needed.

    What is still under way when we are interrupted, or give up waiting, is recorded as done: xapi lets the inverse
    wait for it (docs/background/xapi.md 2.2).
    """

    def record() -> None:
        if undo is not None and inverse is not None:
            undo.did(description, inverse)

    try:
        view.call(*call)
    except XapiError as refusal:
        if not _may_have_happened(refusal):
            raise
        is_so = None
        try:
            is_so = _looked(look, refusal)
        finally:
            if is_so is not False:
                record()
        if not is_so:
            raise
    except XapiUnreachable as silence:
        record()
        if not _looked(look, silence):
            raise
    except BaseException:
        record()
        raise
    else:
        record()


def unmake(view: View, call: tuple[Any, ...], *, is_undone: Callable[[], bool]) -> None:
    """Take something back with `call`. Where nobody knows whether that happened, `is_undone` looks.

    Raises XapiError and XapiUnreachable only where it is not undone, or where the look fails, too.
    """
    try:
        view.call(*call)
    except (XapiError, XapiUnreachable) as error:
        if not (_may_have_happened(error) and _looked(is_undone, error)):
            raise


def is_no_more(view: View, cls: str, ref: str) -> bool:
    """Ask xapi whether an object of that class is gone; one call, which changes nothing."""
    try:
        view.call(f"{cls}.get_uuid", ref)
    except XapiError as error:
        if is_gone(error, cls):
            return True
        raise
    return False


def _may_have_happened(error: BaseException) -> bool:
    return not isinstance(error, XapiError) or error.code in LATE_REFUSALS


def _looked(look: Callable[[], T], error: BaseException) -> T | None:
    """What a look finds after an error; None where the look fails, too, which is noted on the error."""
    try:
        return look()
    except Exception as failure:  # noqa: BLE001  # the first error wins; a look has no part in it
        _note(error, failure)
        return None


def _note(error: BaseException, failure: BaseException) -> None:
    error.add_note(f"whether it happened is not known: {type(failure).__name__}: {failure}")
