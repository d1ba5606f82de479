"""The command group `xenvol`: its commands, and the exit status of each error that they raise."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Never

import click

from xenvol.cli import failures
from xenvol.cli.group import Commands, Entry
from xenvol.cli.terminal import Terminal

READER_GONE: Final = 141  # 128 and the number of SIGPIPE, as in shells: `xenvol list web | head -1`

COMMANDS: Mapping[str, Entry] = {
    "attach": Entry("xenvol.cli.volumes:attach", "Attach a volume to a VM."),
    "detach": Entry("xenvol.cli.volumes:detach", "Detach a volume from a VM."),
    "detach-all": Entry("xenvol.cli.volumes:detach_all", "Detach every volume that xenvol attached to a VM."),
    "list": Entry("xenvol.cli.volumes:list_", "List the volumes that xenvol attached to a VM."),
    "connect": Entry(
        "xenvol.cli.volumes:connect", "Make a volume a VDI of the pool that a VM can boot from."
    ),
    "disconnect": Entry(
        "xenvol.cli.volumes:disconnect", "Remove a volume from the pool, unless it is in use."
    ),
    "extend": Entry(
        "xenvol.cli.volumes:extend", "Make the pool see that a volume has grown, and show its size."
    ),
    "prepare-migration": Entry(
        "xenvol.cli.hosts:prepare_migration", "Make a VM's volumes visible on the host that it will move to."
    ),
    "connector": Entry(
        "xenvol.cli.hosts:connector",
        "Show what a storage service must know of a host to export volumes to it.",
    ),
    "drivers": Entry(
        "xenvol.cli.drivers:drivers",
        "Show the installed drivers, their packages, and the keys that they accept.",
    ),
    "sm": Entry("xenvol.cli.sm:sm", "Make volumes on SRs of any type: flavors, backends and volumes.", "sm"),
    "image": Entry(
        "xenvol.cli.image:image",
        "Make disks from images, and images from disks, on SRs of any type.",
        "images",
    ),
    "demo": Entry(
        "xenvol.cli.demo:demo", "Attach volumes on a simulated pool, and show that nothing is left."
    ),
}


class App(Commands):
    """Turns errors into exit statuses, for the console script and for tests."""

    entries = COMMANDS

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit status"):
            formatter.write_dl([(str(status), meaning) for status, meaning in failures.STATUSES.items()])
        super().format_epilog(ctx, formatter)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _reader_may_go():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _reader_may_go():
                return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:  # click would print an empty line, which is no JSON
            raise failures.Interrupted(ctx.invoked_subcommand) from interrupt

    def main(  # type: ignore[override]  # because click promises Never by an overload; this never returns either
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Never:
        terminal = Terminal()
        arguments = sys.argv[1:] if args is None else list(args)
        with _ending_tidily(is_process=args is None):
            try:
                status = super().main(
                    arguments, prog_name, **{**extra, "standalone_mode": False, "obj": terminal}
                )
            except Exception as error:  # noqa: BLE001  # a bug too is reported in one line; -vv shows the rest
                if isinstance(error, click.UsageError):  # click may have stopped before it read --json
                    terminal.as_json = terminal.as_json or "--json" in arguments
                status = terminal.fail(error)
        if args is None:
            _discard_unwritten_output()
        sys.exit(status if isinstance(status, int) else 0)


@contextmanager
def _reader_may_go() -> Iterator[None]:
    """End the command when nothing reads its output any more."""
    try:
        yield
    except BrokenPipeError as error:
        raise click.exceptions.Exit(READER_GONE) from error
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich turns it into this
            raise click.exceptions.Exit(READER_GONE) from end
        raise


def _discard_unwritten_output() -> None:
    """Let the interpreter end without writing again what could not be written: it would print a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _ending_tidily(*, is_process: bool) -> Iterator[None]:
    """Have SIGTERM and SIGHUP undo what Ctrl-C undoes. A signal that is ignored, as under nohup, stays ignored.

    A later signal of these three interrupts a call that waits for its answer, or one step of the undo. In all other
    code it is ignored, since it would end the undo itself. After the command the handlers are put back. If the command
    `is_process`, and a signal came, all three are ignored instead: the process is about to end, with the status that
    says so.
    """
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # Python sets handlers in the main thread only
    was = {number: signal.getsignal(number) for number in numbers}
    mine = {number: handler for number, handler in was.items() if handler is not signal.SIG_IGN}
    heard: list[int] = []

    def terminate(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if len(heard) == 1 or _is_interruptible(frame):
            raise failures.Terminated(heard[0])

    for number in mine:
        signal.signal(number, terminate)
    try:
        yield
    finally:
        for number, handler in mine.items():
            ends = is_process and heard
            signal.signal(number, signal.SIG_IGN if ends else signal.SIG_DFL if handler is None else handler)


_INTERRUPTIBLE: Final = frozenset(
    {("xenvol.session.clients", "send"), ("xenvol.session.foreign", "send"), ("xenvol.pool.undo", "_run")}
)
"""Functions, by module, that expect an interrupt at any time."""


def _is_interruptible(frame: FrameType | None) -> bool:
    while frame is not None:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) in _INTERRUPTIBLE:
            return True
        frame = frame.f_back
    return False


@click.group(
    "xenvol",
    cls=App,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every command has examples: xenvol COMMAND --help. Try it without a hypervisor: xenvol demo.",
)
@click.version_option(package_name="xenvol", message="xenvol %(version)s")
def app() -> None:
    """Attach block storage to virtual machines on XenAPI hypervisors (XenServer, XCP-ng).

    A block-storage service hands out a connection_info; xenvol turns it into a disk of a virtual machine.
    Options or environment variables give the pool's address and the user:

    \b
      export XENVOL_URL=https://xen1.example.com XENVOL_USER=root XENVOL_PASSWORD_FILE=~/.xenvol
      xenvol attach volume.json web /dev/xvdb
      xenvol list web
      xenvol detach volume.json web
    """
