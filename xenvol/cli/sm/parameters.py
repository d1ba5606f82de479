"""A backend's parameters on a command line: key=value words, without the values of secrets.

``key=@FILE`` reads a secret from a file, ``key=`` asks the user at the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable

import click

from xenvol.cli.options import first_line
from xenvol.cli.terminal import Terminal
from xenvol.secret import Secret, has_secret, is_secret_key, masked
from xenvol.session.refs import is_uuid

_FREE_TEXT = frozenset({"name_label", "name_description"})  # may mention passwords


def read_parameters(terminal: Terminal, words: Iterable[str]) -> dict[str, str | Secret]:
    """Parse the words, split at the first ``=``. Raises UsageError, which quotes no secret.

    All words are parsed before the first secret is asked for.
    """
    pairs: dict[str, str] = {}
    key = ""
    for number, word in enumerate(words, start=1):
        before, (key, equals, value) = key, word.partition("=")
        if not equals or not key:
            quoted = "" if is_secret_key(before) else f" ({masked(word)!r})"
            raise _wrong(f"parameter {number}{quoted} is not key=value")
        if key in pairs:
            raise _wrong(f"key {key!r} is given twice")
        pairs[key] = value if _is_secret(key, value) else _plain(key, value)
    return {
        key: read_secret(terminal, key, value) if _is_secret(key, value) else value
        for key, value in pairs.items()
    }


def read_secret(terminal: Terminal, key: str, value: str) -> Secret:
    """Return the secret of a key, by what follows its ``=``: nothing, or ``@FILE``."""
    if value.startswith("@"):
        return first_line(value[1:], what=f"file of {key}", holds="the secret")
    if value:
        raise _wrong(
            f"key {key!r} is a secret, and every user of this machine can read a command line: write "
            f"{key}=@FILE with the secret in the file's first line, or {key}= to be asked for it"
        )
    if not terminal.has_user:
        raise _wrong(f"key {key!r} has no value, and there is no terminal to ask at: write {key}=@FILE")
    return terminal.ask_secret(f"{key} of the backend")


def _is_secret(key: str, value: str) -> bool:
    """Return True for a secret, and False for the uuid of a xapi secret, which may be shown."""
    return is_secret_key(key) and not (key.endswith("password_secret") and is_uuid(value))


def _plain(key: str, value: str) -> str:
    """Return the value. Raises UsageError if it contains a secret, which would be stored and shown."""
    if key not in _FREE_TEXT and has_secret(value):
        raise _wrong(
            f"the value of key {key!r} has a password in it, which would be stored and shown: give it by a key of "
            "its own (password=@FILE), or have the storage driver read it from a file on the hosts (secretfile=…)"
        )
    return value


def _wrong(problem: str) -> click.UsageError:
    return click.UsageError(problem, click.get_current_context())
