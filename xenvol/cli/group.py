"""A group of commands that is a table: a command's module is imported when it is called.

So a command may need packages that others do not, and the help of all costs none of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import ClassVar, NamedTuple

import click


class Entry(NamedTuple):
    """Where a command is, its first line of help, and the extra that brings what it imports."""

    place: str
    about: str
    extra: str = "cli"


class Commands(click.Group):
    """``-`` and ``_`` in a name are the same; a slip of the finger is answered with what was meant."""

    entries: ClassVar[Mapping[str, Entry]]
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """What other programs call a command: not accepted, but answered with ours."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = self._spelled(cmd_name)
        if name is None:
            return None
        entry = self.entries[name]
        module, _, attribute = entry.place.partition(":")
        try:
            command: click.Command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("xenvol"):
                raise
            raise click.UsageError(
                f"`{ctx.command_path} {name}` needs {error.name}, which is not installed: "
                f"pip install 'xenvol[{entry.extra}]'"
            ) from error
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = self._spelled(args[0])
        if name is None and (meant := self._meant(args)) is not None:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {meant!r}?")
        return super().resolve_command(ctx, [name or args[0], *args[1:]])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.about) for name, entry in self.entries.items()])

    def _spelled(self, name: str) -> str | None:
        """The command of that name as the table has it."""
        return next((each for each in self.entries if _plain(each) == _plain(name)), None)

    def _meant(self, args: list[str]) -> str | None:
        """The command that is near to what was written: in one word, or in two."""
        if (meant := self._spelled("-".join(args[:2]))) is not None:
            return meant
        if _plain(args[0]) in self.elsewhere:
            return self.elsewhere[_plain(args[0])]
        near = difflib.get_close_matches(_plain(args[0]), map(_plain, self.entries), n=1)
        return self._spelled(near[0]) if near else None


def _plain(name: str) -> str:
    return name.replace("_", "-")
