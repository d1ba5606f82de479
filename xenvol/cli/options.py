"""The options and arguments that commands share: a pool and its login, a password, a connection_info.

A password is never an argument: every user of the machine could read it there.
"""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

import xenvol
from xenvol.cli import failures
from xenvol.cli.terminal import Terminal
from xenvol.connection_data import connection_info
from xenvol.secret import Secret
from xenvol.session import InsecureConnection, Session
from xenvol.session.deadline import LONGEST
from xenvol.session.endpoint import ANSWER_TIMEOUT
from xenvol.volumeops import VolumeOps

PASSWORD_VARIABLE = "XENVOL_PASSWORD"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The pool's address and the login, from the options."""

    terminal: Terminal
    url: tuple[str, ...]
    user: str
    password_file: str | None
    ca_file: str | None
    fingerprint: tuple[str, ...]
    insecure: bool
    timeout: float
    deadline: float | None = None

    @contextmanager
    def volume_ops(self, doing: str) -> Iterator[VolumeOps]:
        """Log in as `session` does, for operations on VMs."""
        with self.session(doing) as session:
            yield VolumeOps(session, deadline=self.deadline)

    @contextmanager
    def session(self, doing: str) -> Iterator[Session]:
        """Be logged in during the block; the terminal shows what it is `doing`.

        Raises UsageError for wrong options, and what `xenvol.connect` raises.
        """
        password = self._password()
        with self.terminal.working(doing) as on_call:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", InsecureConnection)
                try:
                    session = xenvol.connect(
                        self.url,
                        self.user,
                        password,
                        ca_file=self.ca_file,
                        fingerprint=self.fingerprint or None,
                        insecure=self.insecure,
                        timeout=self.timeout,
                        on_call=on_call,
                    )
                except ValueError as error:  # a wrong address, or two ways to trust it
                    text = failures.with_options(str(error))
                    raise click.UsageError(text, click.get_current_context()) from error
                finally:
                    for warning in caught:
                        self.terminal.warn(str(warning.message))
            with session:
                yield session

    def _password(self) -> Secret:
        """Return the password from the file, else from the environment, else from the user at the terminal."""
        if self.password_file is not None:
            return first_line(self.password_file)
        if password := os.environ.get(PASSWORD_VARIABLE):
            return Secret(password)
        if self.terminal.has_user:
            return self.terminal.ask_secret(f"Password of {self.user}")
        raise click.UsageError(
            f"no password: name a file that holds it (--password-file), or set {PASSWORD_VARIABLE}; "
            "at a terminal, xenvol asks for it",
            click.get_current_context(),
        )


def first_line(path: str, *, what: str = "password file", holds: str = "the password") -> Secret:
    """Return the secret in a file's first line. Raises UsageError, which does not quote the file."""
    try:
        # a shell does not expand the ~ of key=@~/file
        lines = Path(os.path.expanduser(path)).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise click.UsageError(f"{what} {path} cannot be read: {reason}") from None  # may quote the file
    if not lines or not lines[0]:
        raise click.UsageError(f"{what} {path} is empty: {holds} is its first line")
    return Secret(lines[0])


def pool_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command a `Pool` as its first argument. The `output_options` are included."""

    @click.option(
        "--url",
        multiple=True,
        required=True,
        metavar="URL",
        envvar="XENVOL_URL",
        show_envvar=True,
        help="The pool: https://host of its master or of any member, unix:///socket on a host itself. "
        "May be given several times: they are tried in turn.",
    )
    @click.option("--user", default="root", envvar="XENVOL_USER", show_envvar=True, show_default=True)
    @click.option(
        "--password-file",
        type=click.Path(exists=True, dir_okay=False),
        envvar="XENVOL_PASSWORD_FILE",
        show_envvar=True,
        help=f"Its first line is the password. Default: {PASSWORD_VARIABLE}, or xenvol asks for it.",
    )
    @click.option(
        "--ca-file",
        type=click.Path(exists=True, dir_okay=False),
        envvar="XENVOL_CA_FILE",
        show_envvar=True,
        help="Certificates (PEM) of the authorities that sign the hosts' certificates. Default: the system's.",
    )
    @click.option(
        "--fingerprint",
        multiple=True,
        metavar="SHA256",
        envvar="XENVOL_FINGERPRINT",
        show_envvar=True,
        help="Instead of --ca-file: trust the host with this certificate. Once for each host of the pool.",
    )
    @click.option(
        "--insecure",
        is_flag=True,
        envvar="XENVOL_INSECURE",
        show_envvar=True,
        help="Instead of --ca-file: trust any server. Another machine could then read the password.",
    )
    @click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True, max=LONGEST),
        default=ANSWER_TIMEOUT,
        show_default=True,
        metavar="SECONDS",
        envvar="XENVOL_TIMEOUT",
        show_envvar=True,
        help="Wait so long for the answer to a call.",
    )
    @output_options
    @functools.wraps(command)
    def run(terminal: Terminal, /, **options: Any) -> None:
        names = {field.name for field in fields(Pool)} & options.keys()
        pool = Pool(terminal=terminal, **{name: options.pop(name) for name in names})
        command(pool, **options)

    return run


deadline_option = click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True, max=LONGEST),
    metavar="SECONDS",
    envvar="XENVOL_DEADLINE",
    show_envvar=True,
    help="End within so many seconds: what was begun is taken back in one second more.",
)


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command the `Terminal` as its first argument, set up by --json and -v."""

    def set_json(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        ctx.ensure_object(Terminal).as_json |= value

    def set_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        ctx.ensure_object(Terminal).is_quiet = value

    def set_verbosity(ctx: click.Context, param: click.Parameter, value: int) -> None:
        ctx.ensure_object(Terminal).verbosity = value

    @click.option(
        "--json",
        is_flag=True,
        is_eager=True,  # so that errors in other options are JSON too
        expose_value=False,
        callback=set_json,
        help="Print one JSON value; errors too are JSON, on standard error.",
    )
    @click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=set_quiet,
        help="Show no progress. Results, warnings and errors are shown.",
    )
    @click.option(
        "-v",
        "--verbose",
        count=True,
        is_eager=True,
        expose_value=False,
        callback=set_verbosity,
        help="Show the calls as they are made; -vv also their parameters, and tracebacks.",
    )
    @click.pass_obj
    @functools.wraps(command)
    def run(terminal: Terminal, /, *arguments: Any, **options: Any) -> None:
        command(terminal, *arguments, **options)

    return run


def read_info(ctx: click.Context, param: click.Parameter, value: str) -> Mapping[str, object]:
    """Read and check the connection_info in a file, or in standard input for -, before the login.

    It may stand in the answer of a service: ``{"connection_info": {…}}``.
    """
    where = "standard input" if value == "-" else value
    try:
        with click.open_file(value, "rb") as file:
            sent = json.loads(file.read().decode("utf-8-sig"))  # some programs write a byte order mark
    except OSError as error:
        raise click.BadParameter(f"{where} cannot be read: {error.strerror}", ctx, param) from error
    except UnicodeDecodeError:
        raise click.BadParameter(f"{where} is not UTF-8", ctx, param) from None  # it quotes what it read
    except json.JSONDecodeError as error:
        what = f"{error.msg}, line {error.lineno}"
        raise click.BadParameter(f"{where} is no JSON: {what}", ctx, param) from None  # the same
    except RecursionError:
        raise click.BadParameter(f"{where} is nested too deeply", ctx, param) from None
    if isinstance(sent, dict) and [*sent] == ["connection_info"]:
        sent = sent["connection_info"]
    if not isinstance(sent, dict):
        raise click.BadParameter(f"{where} holds no JSON object", ctx, param)
    info = connection_info.sealed(sent)
    connection_info.parse(info)  # raises InvalidConnectionInfo, which names the key
    return info


info_argument = click.argument("info", metavar="INFO", callback=read_info)
vm_argument = click.argument("vm", metavar="VM")
mountpoint_argument = click.argument("mountpoint", metavar="[MOUNTPOINT]", required=False)
