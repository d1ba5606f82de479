"""What a command prints: its result on standard output, all else on standard error, with the same facts for all
readers.

With --json the result is one JSON value, and standard error has one JSON object a line. Where standard output is no
terminal, a table is a heading and lines of tab-separated fields.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from xenvol.amounts import human_size
from xenvol.cli import failures
from xenvol.secret import Secret, masked
from xenvol.session import CallRecord
from xenvol.session.refs import is_uuid

if TYPE_CHECKING:  # most commands transfer no image
    from xenvol import images

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
"""The level of the library's log that is shown, by the number of -v."""


_FOLDED = 30  # characters: other columns are folded down to this before a uuid is folded
_GAP = 3  # between columns
_REDRAWN = 0.1  # seconds; a disk's pieces come faster than people read


class Terminal:
    """Prints results, progress and errors. It starts with neither --json nor -v; those options set its attributes."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # with LANG=C, names may have letters it lacks
        self.as_json = False
        self.verbosity = 0
        """The number of -v: 1 shows the calls as they are made, 2 the log and tracebacks too."""
        self.out = Console(highlight=False)
        self.err = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None  # the spinner or bar that is shown now

    # ---- results

    def result(self, value: object, *lines: str) -> None:
        """Print the JSON value, or the lines for people."""
        if self.as_json:
            self.json(value)
            return
        for line in lines:
            self.say(line)

    def aside(self, value: object, *lines: str) -> None:
        """Print a result on standard error, for a command whose standard output is an image."""
        if self.as_json:
            self._line({"result": value})
            return
        for line in lines:
            self.err.print(Text(clean(line)), soft_wrap=not self.err.is_terminal)

    def listing(self, value: object, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
        """Print the JSON value, or a table for people."""
        if self.as_json:
            self.json(value)
        else:
            self.table(columns, rows)

    def json(self, value: object) -> None:
        """Print one JSON value, indented at a terminal."""
        click.echo(json.dumps(value, indent=2 if self.out.is_terminal else None))

    def say(self, line: str, *, style: str = "") -> None:
        self.out.print(Text(clean(line), style=style), soft_wrap=not self.out.is_terminal)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
        if self.out.is_terminal:
            self.out.print(_table(columns, rows, self.out.width))
            return
        for row in (columns, *rows):
            click.echo("\t".join(" ".join(clean(str(cell)).split()) for cell in row))

    # ---- progress

    def warn(self, text: str) -> None:
        self._say("warning", "yellow", text)

    def progress(self, text: str) -> None:
        """Show that one of many steps begins or ends, at a terminal or with -v."""
        if self.verbosity or (self.err.is_terminal and not self.as_json):
            self._say("info", "dim", text)

    def called(self, record: CallRecord) -> None:
        """Show a finished call, with -v. With -vv the log has it."""
        if self.verbosity != 1:
            return
        if self.as_json:
            self._line(record._asdict())
            return
        style = "dim" if record.outcome == "ok" else "yellow"
        self.err.print(
            Text(f"{record.call:<32} {record.seconds * 1000:9.1f} ms  {record.outcome}", style=style),
            soft_wrap=True,
        )

    @contextmanager
    def working(self, what: str) -> Iterator[Callable[[CallRecord], None]]:
        """Show a spinner during the block, at a terminal. Yields the function that receives each call."""
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self.err,
            transient=True,
            disable=self.as_json or not self.err.is_terminal,
        )
        calls = 0

        def on_call(record: CallRecord) -> None:
            nonlocal calls
            calls += 1
            bar.update(task, description=f"{clean(what)}: {calls} calls, the last was {record.call}")
            self.called(record)

        with bar, self._logging():
            task = bar.add_task(clean(what))
            self._bar = bar
            try:
                yield on_call
            finally:
                self._bar = None

    @contextmanager
    def transferring(self) -> Iterator[Callable[[images.Progress], None]]:
        """Show a bar in the spinner's place during the block, at a terminal. Yields the function that receives the
        progress.

        Elsewhere, -v shows one line for each phase.
        """
        bar = _TransferBar(self.err) if self.err.is_terminal and not self.as_json else None
        waiting = self._bar
        phases: set[str] = set()

        def tell(progress: images.Progress) -> None:
            if bar is not None:
                if not phases:  # until the first phase, the spinner is shown
                    if waiting is not None:
                        waiting.stop()
                    bar.start()
                    self._bar = bar
                bar.show(progress)
            elif progress.phase not in phases:
                self.progress(_phase(progress))
            phases.add(progress.phase)

        try:
            yield tell
        finally:
            self._bar = waiting
            if bar is not None and phases:
                bar.stop()
                if waiting is not None:
                    waiting.start()

    @contextmanager
    def _logging(self) -> Iterator[None]:
        logger = logging.getLogger("xenvol")
        handler = _LogHandler(self)
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(_LEVELS[min(self.verbosity, 2)])
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)

    # ---- questions

    @property
    def has_user(self) -> bool:
        """Return True if a user at a terminal can be asked."""
        return sys.stdin.isatty() or sys.stderr.isatty()

    def ask_secret(self, what: str) -> Secret:
        """Ask for a secret on standard error; the terminal does not show what is typed."""
        return Secret(self._ask(what, hide_input=True))

    def ask(self, question: str) -> str:
        """Ask, and return the answer, empty if nothing was typed. Reads standard input, which must be a terminal."""
        return self._ask(question, default="", show_default=False)

    def _ask(self, question: str, **options: Any) -> str:
        """Ask while the spinner is stopped: it would write over the question."""
        if self._bar is not None:
            self._bar.stop()
        try:
            answer: str = click.prompt(clean(question), err=True, **options)
        finally:
            if self._bar is not None:
                self._bar.start()
        return answer

    # ---- failures

    def fail(self, error: BaseException) -> int:
        """Print an error, and return its exit status."""
        if self.as_json:
            self._line({"error": failures.as_json(error)})
        elif isinstance(error, click.UsageError):
            error.show()
        else:
            self._say("error", "bold red", failures.message_of(error))
            hint = failures.hint_of(error)
            if hint is not None:
                self._say("hint", "bold", hint, indent=True)
            for note in failures.notes_of(error):
                self._say("note", "yellow", note, indent=True)
            if self.verbosity >= 2:
                self.err.print(
                    Text(clean(masked("".join(traceback.format_exception(error))))), soft_wrap=True
                )
        return failures.blame_of(error).status

    def _say(self, word: str, style: str, text: str, *, indent: bool = False) -> None:
        if self.as_json:
            self._line({word: text})
            return
        line = Text.assemble("  " if indent else "", (f"{word}: ", style), clean(text))
        self.err.print(line, soft_wrap=not self.err.is_terminal)

    def _line(self, value: object) -> None:
        click.echo(json.dumps(value), err=True)


class _Amounts(ProgressColumn):
    """A column with the amount done, the total, and the speed."""

    def render(self, task: Task) -> Text:
        amount = human_size(int(task.completed))
        if task.total is not None:
            amount += f" of {human_size(int(task.total))}"
        speed = task.finished_speed or task.speed
        return Text(amount if speed is None else f"{amount}, {human_size(int(speed))}/s")


class _TransferBar(Progress):
    """The bar of one transfer, which has several phases."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            _Amounts(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._phases: dict[str, TaskID] = {}
        self._shown = 0.0

    def show(self, progress: images.Progress) -> None:
        """Show the progress: the start and the end of each phase, and at most ten updates a second between them."""
        phase, done, total = progress.phase, progress.done, progress.total
        if phase not in self._phases:
            for earlier in self._phases.values():
                self.update(earlier, visible=False)
            self._phases[phase] = self.add_task(phase, total=total)
        elif done != total and self.get_time() - self._shown < _REDRAWN:
            return
        self._shown = self.get_time()
        self.update(self._phases[phase], completed=done, total=total)


def _phase(progress: images.Progress) -> str:
    return (
        progress.phase
        if progress.total is None
        else f"{progress.phase}, {human_size(progress.total)} at most"
    )


class _LogHandler(logging.Handler):
    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        word = "warning" if record.levelno >= logging.WARNING else record.levelname.lower()
        self._terminal._say(word, "yellow" if word == "warning" else "dim", record.getMessage())


def _table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], width: int) -> Table:
    """Make a table with folded cells. A uuid stays in one piece, to be copied, if the other columns still have room."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    cells = [[clean(str(row[number])) for row in rows] for number in range(len(columns))]
    are_uuids = [any(map(is_uuid, column)) for column in cells]
    widths = [max(map(len, (name, *column))) for name, column in zip(columns, cells, strict=True)]
    needed = sum(
        (longest if is_whole else min(longest, _FOLDED)) + _GAP
        for longest, is_whole in zip(widths, are_uuids, strict=True)
    )
    for name, is_whole in zip(columns, are_uuids, strict=True):
        table.add_column(name, overflow="fold", no_wrap=is_whole and needed <= width)
    for row in rows:
        table.add_row(*(Text(clean(str(cell)), style=getattr(cell, "style", "")) for cell in row))
    return table


def clean(text: str) -> str:
    """Replace control characters: names and errors come from other programs, and could steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
