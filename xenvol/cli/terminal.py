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
import time
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


_FOLDED = 30  # characters: a column without uuids is folded down to this
_GAP = 3  # between columns
_LINE_EVERY = 10.0  # seconds from one line of progress to the next, where no bar can be drawn
_NARROW = 70  # columns below which a bar has no room
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
        self.is_quiet = False
        """Whether -q was given: no progress is shown."""
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
        with _writing():
            click.echo(json.dumps(value, indent=2 if self.out.is_terminal else None))

    def say(self, line: str, *, style: str = "") -> None:
        with _writing():
            self.out.print(Text(clean(line), style=style), soft_wrap=not self.out.is_terminal)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
        """Print a table. At a terminal where its uuids would be folded, each cell has a line of its own."""
        cells = [[clean(str(cell)) for cell in row] for row in rows]
        with _writing():
            if not self.out.is_terminal:
                for row in (columns, *cells):
                    click.echo("\t".join(" ".join(cell.split()) for cell in row))
            elif _keeps_uuids(columns, cells, self.out.width):
                self.out.print(_table(columns, cells, rows))
            else:
                longest = max(map(len, columns))
                for number, row in enumerate(cells):
                    if number:
                        self.out.print()
                    for name, cell in zip(columns, row, strict=True):
                        self.out.print(Text.assemble((f"{name:{longest}}  ", "bold"), cell))

    # ---- progress

    def warn(self, text: str) -> None:
        self._say("warning", "yellow", text)

    def progress(self, text: str) -> None:
        """Show that one of many steps begins or ends, at a terminal or with -v."""
        if self.is_quiet:
            return
        if self.verbosity or (self.err.is_terminal and not self.as_json):
            self._say("info", "dim", text)

    def transferred(self, progress: images.Progress) -> None:
        """Print how far a transfer is, as a line of its own."""
        phase, done, total = progress.phase, progress.done, progress.total
        if self.as_json:
            self._line({"progress": {"phase": phase, "done": done, "total": total}})
            return
        text = f"{phase}: {human_size(done)}"
        if total:
            text += f" of {human_size(total)}, {100 * done // total} %"
        self.err.print(Text(text), soft_wrap=True)

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
            disable=self.as_json or self.is_quiet or not self.err.is_terminal,
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

        Elsewhere, a line is printed every ten seconds, with --json a JSON object; -v shows one line for each phase.
        With -q nothing is shown.
        """
        bar = _TransferBar(self.err) if self.err.is_terminal and not self.as_json else None
        waiting = self._bar
        phases: set[str] = set()
        lines = _TransferLines(self)

        def tell(progress: images.Progress) -> None:
            if self.is_quiet:
                return
            if bar is None:
                lines.show(progress)
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

    def __init__(self, *, is_short: bool) -> None:
        super().__init__()
        self._is_short = is_short

    def render(self, task: Task) -> Text:
        amount = human_size(int(task.completed))
        if self._is_short:
            return Text(amount)
        if task.total is not None:
            amount += f" of {human_size(int(task.total))}"
        speed = task.finished_speed or task.speed
        return Text(amount if speed is None else f"{amount}, {human_size(int(speed))}/s")


class _TransferLines:
    """The lines of one transfer where no bar is drawn: every ten seconds, and at the end of a phase that had one."""

    def __init__(self, terminal: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        self._terminal = terminal
        self._clock = clock
        self._due = clock() + _LINE_EVERY
        self._begun: set[str] = set()  # the phases that had a line

    def show(self, progress: images.Progress) -> None:
        is_end = progress.done == progress.total and progress.phase in self._begun
        if self._clock() < self._due and not is_end:
            return
        self._due = self._clock() + _LINE_EVERY
        (self._begun.discard if is_end else self._begun.add)(progress.phase)
        self._terminal.transferred(progress)


class _TransferBar(Progress):
    """The bar of one transfer, which has several phases. On a narrow terminal it has no bar and no amounts."""

    def __init__(self, console: Console) -> None:
        is_narrow = console.width < _NARROW
        columns: tuple[ProgressColumn, ...] = (
            TextColumn("{task.description}", markup=False),
            *(() if is_narrow else (BarColumn(),)),
            TaskProgressColumn(),
            _Amounts(is_short=is_narrow),
            *(() if is_narrow else (TimeRemainingColumn(),)),
        )
        super().__init__(*columns, console=console, transient=True)
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


@contextmanager
def _writing() -> Iterator[None]:
    """Tell a failure of standard output from every other OSError. If the reader has gone, BrokenPipeError stays."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise failures.OutputFailed(error) from error


def _keeps_uuids(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a table of this width shows each uuid in one piece, to be copied, if its other columns are folded."""
    needed = 0
    for name, *column in zip(columns, *cells, strict=True):
        longest = max(map(len, (name, *column)))
        needed += _GAP + (longest if any(map(is_uuid, column)) else min(longest, _FOLDED))
    return needed <= width or not any(is_uuid(cell) for row in cells for cell in row)


def _table(
    columns: Sequence[str], cells: Sequence[Sequence[str]], styled: Sequence[Sequence[str | Text]]
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name, *column in zip(columns, *cells, strict=True):
        table.add_column(name, overflow="fold", no_wrap=any(map(is_uuid, column)))
    for row, styles in zip(cells, styled, strict=True):
        table.add_row(
            *(Text(cell, style=getattr(of, "style", "")) for cell, of in zip(row, styles, strict=True))
        )
    return table


def clean(text: str) -> str:
    """Replace control characters: names and errors come from other programs, and could steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
