"""A group of commands as a table. A command's module is imported when the command is called.

So a command can need packages that others do not need, and the help imports none of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import ClassVar, NamedTuple

import click


class Entry(NamedTuple):
    """A command's module and function, the first line of its help, and the extra that it needs."""

    place: str
    about: str
    extra: str = "cli"


class Commands(click.Group):
    """A group in which ``-`` and ``_`` are the same, and a mistyped name gets a suggestion."""

    entries: ClassVar[Mapping[str, Entry]]
    aliases: ClassVar[Mapping[str, str]] = {}
    """Second names of commands: accepted, and not listed."""
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Names that other programs use for a command: not accepted, but answered with our name."""

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
        """Return the command's name as in the table, or None."""
        name = self.aliases.get(_plain(name), name)
        return next((each for each in self.entries if _plain(each) == _plain(name)), None)

    def _meant(self, args: list[str]) -> str | None:
        """Return the command that is close to what the user wrote, in one word or in two; or None."""
        if (meant := self._spelled("-".join(args[:2]))) is not None:
            return meant
        if _plain(args[0]) in self.elsewhere:
            return self.elsewhere[_plain(args[0])]
        near = difflib.get_close_matches(_plain(args[0]), map(_plain, self.entries), n=1)
        return self._spelled(near[0]) if near else None


def _plain(name: str) -> str:
    return name.replace("_", "-")
