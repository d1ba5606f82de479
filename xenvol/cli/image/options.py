"""The options that the commands of `xenvol image` share, and the question before data is lost.

The value of a secret header is never on a command line, where every user of the machine could read it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from xenvol.cli.image.standard import standard_input
from xenvol.cli.options import first_line
from xenvol.cli.sizes import read_size
from xenvol.cli.terminal import Terminal
from xenvol.images import FORMATS, ImageSource
from xenvol.images.image_source import check_place
from xenvol.images.sources.requests import Request
from xenvol.secret import Secret, has_secret
from xenvol.session.endpoint import Trust

TOKEN = "X-Auth-Token"

staging_option = click.option(
    "--staging-dir",
    type=click.Path(exists=True, file_okay=False),
    metavar="DIRECTORY",
    help="Where to stage an image that cannot be streamed. Default: the system's temporary directory.",
)
road_option = click.option(
    "--road",
    type=click.Choice(["auto", "http", "block"]),
    default="auto",
    show_default=True,
    help="How the bytes reach the disk: by xapi's HTTP handler, or by a block device of the VM in which this runs.",
)
verify_option = click.option("--verify", is_flag=True, help="Read the disk back, and compare.")
blank_option = click.option(
    "--blank",
    is_flag=True,
    help="The disk is new and reads as zeros, so holes of the image are not written.",
)
yes_option = click.option(
    "--yes", is_flag=True, help="Overwrite what the disk holds, without a question at the terminal."
)


def source_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the argument IMAGE and its options; the command gets an `ImageSource` as `source`."""

    @click.argument("image", metavar="IMAGE")
    @click.option(
        "--parent",
        "parents",
        multiple=True,
        metavar="PATH",
        help="The parent of a differencing VHD. Give it once for each VHD of the chain, the base last.",
    )
    @click.option(
        "--format",
        "source_format",
        type=click.Choice(FORMATS),
        help="The image's format. Default: detected from its bytes; a raw disk can look like any format.",
    )
    @click.option(
        "--size",
        metavar="SIZE",
        callback=read_size,
        help="The length of a stream that does not give it: 10 (GiB), 512MiB, 4096B.",
    )
    @click.option(
        "--checksum",
        metavar="[ALGORITHM:]DIGEST",
        help="The checksum of the image as it is stored: sha256:…, sha512:…, md5:…",
    )
    @click.option(
        "--disk",
        metavar="NAME",
        help="The disk of an OVA that has several: its number from 1, its id, or the name of its file.",
    )
    @click.option(
        "--checksum-file",
        metavar="FILE",
        help="A file or URL that lists the checksum of the image's file, as SHA256SUMS does.",
    )
    @click.option(
        "--unknown-length",
        is_flag=True,
        help="Take a raw image from a stream of unknown length for whole, wherever the stream ends.",
    )
    @click.option(
        "--limit-rate",
        metavar="SIZE",
        callback=read_size,
        help="Fetch a URL with so many bytes a second at most: 512KiB, 50MiB.",
    )
    @click.option(
        "--header",
        "headers",
        multiple=True,
        metavar="'NAME: VALUE'",
        help="A header for the image service that is no secret. May be given several times.",
    )
    @click.option(
        "--header-file",
        "header_files",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="A file whose first line is a secret header: `Authorization: Bearer …`.",
    )
    @click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help=f"A file whose first line is the token for the image service, sent as {TOKEN}.",
    )
    @click.option(
        "--image-ca-file",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="The CA certificates (PEM) that verify the image service. Default: the system's.",
    )
    @click.option(
        "--image-insecure",
        is_flag=True,
        help="Do not verify the image service: an attacker in between could read the token.",
    )
    @functools.wraps(command)
    def run(
        *,
        image: str,
        parents: tuple[str, ...],
        source_format: str | None,
        size: int | None,
        checksum: str | None,
        disk: str | None,
        checksum_file: str | None,
        unknown_length: bool,
        limit_rate: int | None,
        headers: tuple[str, ...],
        header_files: tuple[str, ...],
        token_file: str | None,
        image_ca_file: str | None,
        image_insecure: bool,
        **options: Any,
    ) -> None:
        is_url = image.lower().startswith(("http://", "https://"))
        check_place(image)
        of_urls = (headers, header_files, token_file, image_ca_file, image_insecure, limit_rate)
        if not is_url and any(of_urls):
            raise wrong(
                f"{image} is no URL: leave out the options for headers, tokens, certificates and the rate"
            )
        if parents:
            _check_chain((image, *parents), source_format, checksum or checksum_file)
        try:
            source = ImageSource(
                where=(image, *parents) if parents else standard_input() if image == "-" else image,
                format=source_format,
                size=size,
                checksum=checksum,
                disk=disk,
                checksum_file=checksum_file,
                unknown_length=unknown_length,
                rate=limit_rate,
                headers=_headers(image, headers, header_files, token_file, image_insecure) if is_url else {},
                ca_file=image_ca_file,
                insecure=image_insecure,
            )
            Trust.of(image_ca_file, None, image_insecure)
        except ValueError as error:
            raise wrong(str(error).replace("ca_file", "--image-ca-file")) from error
        command(source=source, **options)

    return run


def _check_chain(paths: Sequence[str], source_format: str | None, checksum: str | None) -> None:
    if any(path == "-" or "://" in path for path in paths):
        raise wrong("with --parent, every VHD of the chain must be a file: give a path as IMAGE, too")
    if source_format not in (None, "vhd") or checksum is not None:
        raise wrong(
            "with --parent, leave out --format and --checksum: the files are VHDs, and a chain has no checksum"
        )


def _headers(
    url: str, plain: Sequence[str], files: Sequence[str], token_file: str | None, insecure: bool
) -> Mapping[str, str | Secret]:
    """Return the headers by name. Raises UsageError, which quotes no value, ValueError for a wrong header, and
    SourceError for a wrong URL."""
    headers: dict[str, str | Secret] = {}
    for number, text in enumerate(plain, start=1):
        name, value = _split(text, f"header {number}")
        if Request.parse(url, {name: value}, is_insecure=True).secret_headers or has_secret(value):
            raise wrong(
                f"header {name!r} is a secret, and every user of this machine can read a command line: "
                "write it to a file, as `NAME: VALUE`, and name that (--header-file)"
            )
        headers[name] = value
    for path in files:
        line = first_line(path, what="header file", holds="the header")
        name, value = _split(line.reveal(), f"the first line of {path}")
        headers[name] = Secret(value)
    if token_file is not None:
        headers[TOKEN] = first_line(token_file, what="token file", holds="the token")
    Request.parse(url, headers, insecure)  # refuse a secret over plain HTTP before any log-in
    return headers


def _split(text: str, what: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not value.strip():
        raise wrong(f"{what} is not `NAME: VALUE`")
    return name.strip(), value.strip()


def confirm(terminal: Terminal, what: str, name: str) -> None:
    """Ask the user to type the name of what will be overwritten. Raises UsageError if the answer is another one."""
    terminal.warn(f"what {what} holds will be lost")
    if terminal.ask(f"To overwrite it, type its name ({name}); Enter leaves it as it is").strip() != name:
        raise wrong(f"{what} was not changed, since its name was not typed")


def check_may_ask(terminal: Terminal, what: str) -> None:
    """Raise UsageError if no user can be asked: with --json, or if standard input is no terminal."""
    if terminal.as_json or not sys.stdin.isatty():
        raise wrong(
            f"what {what} holds would be lost: give --yes, or run this at a terminal without --json to be asked"
        )


def wrong(problem: str) -> click.UsageError:
    return click.UsageError(problem, click.get_current_context())


def export_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of an export; the command gets `target_format`, `compress` and `overwrite`."""

    @click.option(
        "--format",
        "target_format",
        type=click.Choice(["raw", "vhd", "tarball"]),
        default="raw",
        show_default=True,
        help="The format to write. A tarball holds a VHD, as image services keep it for XenServer.",
    )
    @click.option(
        "--compress",
        type=click.Choice(["none", "gzip", "zstd"]),
        default="none",
        show_default=True,
        help="The compression of the image.",
    )
    @click.option(
        "--overwrite", is_flag=True, help="Replace a file of that name, once the image is complete."
    )
    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        command(*arguments, **options)

    return run
