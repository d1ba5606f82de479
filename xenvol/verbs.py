"""Doing something to the hypervisor: recorded when it has succeeded, and looked up when nobody knows.

A refusal did not happen and leaves no record. After a silence or an interruption it may have happened, so it is
looked up; what is found is on the record like anything else, and a silence is then no failure any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from xenvol.errors import XapiError, XapiUnreachable
from xenvol.undo import Undo
from xenvol.view import View

Ref = TypeVar("Ref", bound=str)


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

    `look` finds the object that this very call would have made. Raises XapiError, and XapiUnreachable when it is
    not there either.
    """
    try:
        ref: Ref = view.call(*call)
    except XapiError:
        raise
    except BaseException as error:
        found = look()
        if found is None:
            raise
        undo.did(description, inverse, view, found)
        if not isinstance(error, XapiUnreachable):
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
    """Bring an object into another state with `call`; `look` tells whether it is in that state.

    What is still under way when we are interrupted, or give up waiting, is recorded as done: xapi lets the inverse
    wait for it (facts/xapi.md 2.2).
    """
    try:
        view.call(*call)
    except XapiError:
        raise
    except BaseException as error:
        if isinstance(error, XapiUnreachable) and look():
            pass
        else:
            if undo is not None:
                undo.did(description, inverse)
            raise
    if undo is not None:
        undo.did(description, inverse)
