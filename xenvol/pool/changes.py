"""Change objects of the pool: a call that succeeds is recorded; after a missing answer xenvol reads what happened.

A refused call changed nothing and leaves no record. After a missing answer or an interrupt, the change may have
happened. The same holds after INTERNAL_ERROR: xapi also sends it for an exception that comes after the change
(docs/background/recordings.md, finding 3 (xapi)). Then `look` reads the object. If the change is there, xenvol records
it, and the call counts as successful.

An interrupt, and a deadline that has passed, is raised also if the change is there: it ends the operation.

The caller gets the error of the call. If `look` fails too, its error becomes a note, the record says "perhaps", and
the undo reads the object again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from xenvol.errors import DeadlineExceeded, XapiError, XapiUnreachable
from xenvol.pool.undo import Undo
from xenvol.pool.view import View, is_gone

Ref = TypeVar("Ref", bound=str)
T = TypeVar("T")

LATE_REFUSALS: Final = frozenset({"INTERNAL_ERROR"})
"""Error codes that xapi can send although the change has happened."""


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

    `look` finds the object that this very call would have made. Raises XapiError and XapiUnreachable if `look` finds
    none either, and every interrupt.
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
        except Exception as failure:  # noqa: BLE001  # the first error wins; `look` only adds a note
            _note(error, failure)
        finally:  # also if `look` is interrupted
            if not is_known:
                undo.did(f"{description}, perhaps", unmake_what_is_there)
        if found is None:
            raise
        undo.did(description, inverse, view, found)
        if isinstance(error, DeadlineExceeded) or not isinstance(error, XapiUnreachable | XapiError):
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
    inverse: Callable[[], object],
) -> None:
    """Bring an object into another state with `call`; `look` says whether it is in that state.

    If an interrupt or a time limit ends the wait for the answer, the change is recorded as done: xapi lets the inverse
    wait for the call (docs/background/xapi.md 2.2).
    """

    def record() -> None:
        if undo is not None:
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
        if isinstance(silence, DeadlineExceeded) or not _looked(look, silence):
            raise
    except BaseException:
        record()
        raise
    else:
        record()


def call_and_confirm(view: View, call: tuple[Any, ...], *, is_done: Callable[[], bool]) -> None:
    """Change an object with `call` for good: nothing is recorded to take it back.

    If xapi gives no answer, or a late refusal, `is_done` reads whether the change happened. Raises XapiError and
    XapiUnreachable if it did not, or if `is_done` fails, too.
    """
    try:
        view.call(*call)
    except (XapiError, XapiUnreachable) as error:
        if not (_may_have_happened(error) and _looked(is_done, error)):
            raise


def add_key(view: View, map_of: str, ref: str, key: str, value: str) -> bool:
    """Add a key to a map of an object, such as ``SR.other_config``. Return False if the map has the key already.

    xapi lets one process only add a key, so of several that try, one gets True.
    """
    cls, _, name = map_of.partition(".")
    try:
        view.call(f"{cls}.add_to_{name}", ref, key, value)
    except XapiError as error:
        if error.code != "MAP_DUPLICATE_KEY":
            raise
        return False
    return True


def is_no_more(view: View, cls: str, ref: str) -> bool:
    """Ask xapi whether an object of that class is gone; one call, read-only."""
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
    """Return what `look` finds after an error. If `look` fails, note that on the error and return None."""
    try:
        return look()
    except Exception as failure:  # noqa: BLE001  # the first error wins; `look` only adds a note
        _note(error, failure)
        return None


def _note(error: BaseException, failure: BaseException) -> None:
    error.add_note(f"whether it happened is not known: {type(failure).__name__}: {failure}")
