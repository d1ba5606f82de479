"""A requirement that is not met says what happened and what to change, and nothing else: no values, no secrets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator


def require(is_met: object, message: str) -> None:
    """Fail with these words; unlike an assert, which pytest adorns with the values that it compared."""
    __tracebackhide__ = True
    if not is_met:
        raise AssertionError(message)


@contextlib.contextmanager
def must_pass(what: str, remedy: str) -> Iterator[None]:
    """Whatever is raised within is a requirement that is not met."""
    try:
        yield
    except AssertionError as error:  # one of its own
        error.add_note(what)
        raise
    except Exception as error:
        raise AssertionError(f"{what}, and raised {type(error).__name__}: {error}\n{remedy}") from error


def listed(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
