"""Turn an error into an exit status, and into JSON or lines for people. The status says whose fault it was."""

from __future__ import annotations

import re
from operator import attrgetter
from typing import Any, NamedTuple

import click

from xenvol.errors import (
    DriverError,
    HostNotTrusted,
    HypervisorError,
    RequestError,
    StorageError,
    VMError,
    XapiError,
    XapiUnreachable,
    XenVolError,
)
from xenvol.secret import masked
from xenvol.session.endpoint import NotConnected

OTHER = 1
USAGE = 2
BUSY = 10
INTERRUPTED = 130  # 128 and the number of SIGINT, as in shells


class Terminated(KeyboardInterrupt):
    """A signal asked the process to end: what was begun is undone, as at Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number  # as in shells


class OutputFailed(click.ClickException):
    """Standard output cannot be written: its disk is full, say."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"standard output cannot be written: {cause.strerror or cause}")


class Blame(NamedTuple):
    """Whose fault an error is: the word for --json, the exit status, and its meaning."""

    word: str
    status: int
    meaning: str


_BLAMES: dict[type[BaseException], Blame] = {
    click.UsageError: Blame("request", USAGE, "the request is wrong: the command line, the connection_info"),
    RequestError: Blame("request", USAGE, "the request is wrong: the command line, the connection_info"),
    VMError: Blame("vm", 3, "the VM cannot take or give the disk as it is now"),
    DriverError: Blame("driver", 4, "the driver's package is missing or broken, or cannot do this"),
    StorageError: Blame("storage", 5, "the storage does not have what was promised"),
    HypervisorError: Blame("hypervisor", 6, "xapi or a host refused, and nothing was done"),
    HostNotTrusted: Blame("trust", 9, "the host did not prove its identity, and was sent nothing"),
    XapiUnreachable: Blame("unreachable", 7, "no answer: repeat the command to find out, and to complete it"),
    OutputFailed: Blame("output", 11, "the result could not be written to standard output"),
    click.Abort: Blame(
        "interrupted", INTERRUPTED, "interrupted: the error says what the same command does then"
    ),
}
_INTERRUPTED = _BLAMES[click.Abort]
_BLAMES_BY_NAME: dict[str, Blame] = {
    "xenvol.images.errors.TransferCancelled": _INTERRUPTED,
    "xenvol.images.errors.SourceUnavailable": Blame(
        "source", BUSY, "busy: the same command may succeed a little later"
    ),
    "xenvol.sm.errors.DatabaseError": Blame(
        "database", 8, "the Storage Manager's database is missing, not reachable, or of another release"
    ),
}
"""Errors by name: importing them needs the extra `sm`, or costs time in commands that never raise them."""
_UNEXPECTED = Blame("unexpected", OTHER, "something else: a bug; for `demo`: something was left in the pool")

_ALL = (*_BLAMES.values(), *_BLAMES_BY_NAME.values())

STATUSES: dict[int, str] = {
    0: "done",
    OTHER: _UNEXPECTED.meaning,
    **{blame.status: blame.meaning for blame in sorted(_ALL, key=attrgetter("status"))},
}
STATUSES = dict(sorted(STATUSES.items()))
"""Every exit status and its meaning, for the help and the documentation."""


_AFTER_AN_ATTACH = "repeat the command to complete it; or remove what is left with `xenvol detach`"
_AFTER_AN_INTERRUPT = {
    "image": "what it made was taken back, so the same command begins anew; `xenvol image sweep` lists what is left",
    "sm": "repeat the command; `xenvol sm audit --repair` and `xenvol image sweep --remove` remove what is left",
}
"""By command: what to do after Ctrl-C."""


class Interrupted(click.Abort):
    """A signal ended a command; `command` is its first word, if it had begun."""

    def __init__(self, command: str | None) -> None:
        super().__init__()
        self.command = command


def blame_of(error: BaseException) -> Blame:
    """Return the first blame that fits. An error that fits none is a bug, in xenvol or in a driver."""
    if isinstance(error, click.Abort) and isinstance(error.__cause__, Terminated):
        return _INTERRUPTED._replace(status=error.__cause__.status)
    named = (_BLAMES_BY_NAME.get(f"{kind.__module__}.{kind.__qualname__}") for kind in type(error).__mro__)
    typed = (blame for kind, blame in _BLAMES.items() if isinstance(error, kind))
    blame = next((blame for blame in (*named, *typed) if blame is not None), _UNEXPECTED)
    return blame._replace(status=BUSY) if _is_transient(error) else blame


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, XenVolError) and error.is_transient


def _may_succeed_later(error: BaseException) -> bool:
    """Whether the same command may succeed a little later: it finds out what happened where no answer came."""
    return _is_transient(error) or (
        isinstance(error, XapiUnreachable) and not isinstance(error, HostNotTrusted)
    )


def as_json(error: BaseException) -> dict[str, Any]:
    """Return the error as JSON: ``type``, ``message``, ``code`` and ``params`` (xapi's, verbatim), ``hint``, ``blame``,
    ``exit_status``, ``is_transient`` (the same command may succeed a little later), ``notes``."""
    return {
        "type": "UsageError" if isinstance(error, click.UsageError) else type(error).__name__,
        "blame": blame_of(error).word,
        "exit_status": blame_of(error).status,
        "is_transient": _may_succeed_later(error),
        "message": message_of(error),
        "code": error.code if isinstance(error, XapiError) else None,
        "params": list(error.params) if isinstance(error, XapiError) else [],
        "hint": hint_of(error),
        "notes": notes_of(error),
    }


def message_of(error: BaseException) -> str:
    """Return what went wrong, without a hint that is shown separately."""
    if isinstance(error, click.Abort):
        return "interrupted"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if blame_of(error) is _UNEXPECTED:
        return masked(f"unexpected {type(error).__name__}: {error}")
    return with_options(str(error)).removesuffix(f"; {hint_of(error)}")


_OPTIONS = {"`hotplug=False`": "--no-hotplug", "`insecure=True`": "--insecure"}


def with_options(text: str) -> str:
    """Return the text of an error with the command line's options for the arguments of functions.

    Such an argument stands in backticks. One of which the command line has another name is in `_OPTIONS`.
    """
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    return re.sub("`([a-z_]+)`", lambda found: "--" + found[1].replace("_", "-"), text)


def hint_of(error: BaseException) -> str | None:
    """Return what to do about the error, or None if the message says it."""
    if isinstance(error, XapiError):
        return error.hint
    if isinstance(error, click.Abort) and isinstance(error.__cause__, KeyboardInterrupt):
        return _AFTER_AN_INTERRUPT.get(getattr(error, "command", None) or "", _AFTER_AN_ATTACH)
    if isinstance(error, XapiUnreachable) and type(error.cause) is NotConnected:
        return "nothing was sent: check the address (--url), and that the host is up"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{error.ctx.command_path} --help"
    if blame_of(error) is _UNEXPECTED:
        return "this is a bug, in xenvol or in a driver's package: repeat with -vv to see where"
    return None


def notes_of(error: BaseException) -> list[str]:
    """Return what else happened, mostly steps that could not be undone."""
    if isinstance(error, click.Abort) and error.__cause__ is not None:
        error = error.__cause__  # the KeyboardInterrupt: the undo added its notes there
    notes = list(getattr(error, "__notes__", []))
    earlier = error.__context__
    while isinstance(error, KeyboardInterrupt) and earlier is not None:  # a second signal came, maybe later
        notes += getattr(earlier, "__notes__", []) if isinstance(earlier, KeyboardInterrupt) else []
        earlier = earlier.__context__
    return notes
