"""An unmet requirement: the message says what happened and what to change, without values and secrets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator


def require(is_met: object, message: str) -> None:
    """Fail with this message only; an assert would make pytest add the compared values."""
    __tracebackhide__ = True
    if not is_met:
        raise AssertionError(message)


@contextlib.contextmanager
def must_pass(what: str, remedy: str) -> Iterator[None]:
    """Turn any exception of the block into an unmet requirement."""
    try:
        yield
    except AssertionError as error:  # already an unmet requirement
        error.add_note(what)
        raise
    except Exception as error:
        raise AssertionError(f"{what}, and raised {type(error).__name__}: {error}\n{remedy}") from error


def listed(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
