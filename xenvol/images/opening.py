"""Open an image: fetch it, compute its checksum, recognise its format, and give it to the format's reader.

    path ──────▶ file ──────────────────────────────┐
    URL, pipe ─▶ stream ─▶ decompressed ─▶ in order? ─▶ its reader
                                        └─ no ─▶ staged: a file ─▶ its reader

A format that can be read in the order of its bytes is not staged. Before xenvol makes anything, it checks all tables
and the checksum of a file, and of a stream all that comes before the first block. The rest is checked as it passes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import BinaryIO, Final

from xenvol.images.disk_image import VHD_MAX, ByteFile, DiskImage, NeedsFile, Stream
from xenvol.images.errors import ImageTooLarge, SourceError, UnsupportedImage
from xenvol.images.formats import chain, detect, ova, qcow2, raw, raw_tarball, tarball, vhd, vmdk
from xenvol.images.image_source import SYNONYMS, ImageSource, Source, check_place, is_url
from xenvol.images.options import TransferOptions
from xenvol.images.progress import Progress, Watch, ignore_progress
from xenvol.images.sources.checksums import LARGEST_LIST, Checksum, Summed, check_file
from xenvol.images.sources.compression import decompressed
from xenvol.images.sources.files import FileSource, as_stream
from xenvol.images.sources.requests import is_of_same_origin, name_of_url
from xenvol.images.sources.staging import Staging
from xenvol.images.sources.streams import Peekable, stream_of
from xenvol.images.sources.urls import Download, open_url

log = logging.getLogger(__name__)

_COMPRESSED: Final = ("gzip", "bzip2", "xz", "zstd")
_ANYTHING: Final = ("raw", "iso")  # what the caller calls a disk may begin with any bytes
_NAMES: Final = {"tar": "tarball", "tar-raw": "tarball", "vhd-fixed": "vhd"}
_MAY_BE_CUT: Final = (
    "its length is not known, so a part of it could pass for all of it: give its checksum (--checksum), or its length "
    "(--size), or say that it is whole wherever it ends (--unknown-length)"
)
_LONGEST: Final = VHD_MAX + (1 << 30)
"""Bytes of an image that is staged, at most: the largest disk, and its tables."""


@dataclass(frozen=True)
class OpenImage:
    """An image whose bytes are being read."""

    disk: DiskImage
    name: str
    format: str
    """One of `FORMATS`."""
    finish: Callable[[], None]
    """Call it after the last piece. Raises ChecksumMismatch, SourceError."""
    scratch: Path
    """The directory for temporary files that grow with the image."""
    watch: Watch

    @property
    def label(self) -> str:
        """Return a name for a disk that is made from the image."""
        return (
            PurePath(urllib.parse.urlsplit(self.name).path if "://" in self.name else self.name).name
            or "image"
        )


@contextlib.contextmanager
def open_image(source: Source, options: TransferOptions, what: str) -> Iterator[OpenImage]:
    """Open an image for the block; `what` names the transfer in errors.

    Raises SourceError, InvalidImage, UnsupportedImage, MissingReader, ChecksumMismatch, NoRoomToStage.
    """
    wanted = ImageSource.of(source)
    with ExitStack() as stack:
        staging = stack.enter_context(Staging(options.staging_dir))
        yield _Opening(wanted, stack, staging, options.watch(what)).open()


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """What an image is. Sizes in bytes."""

    image: str
    format: str
    virtual_size: int
    """Of the disk in the image."""
    allocated: int | None
    """Bytes of the disk that the image holds data for, at most; None if only reading all of it would tell."""
    is_checked: bool
    """Whether all of the image was read without an error."""


def inspect_image(
    source: Source,
    *,
    check: bool = False,
    staging_dir: str | Path | None = None,
    progress: Callable[[Progress], None] = ignore_progress,
    cancel: threading.Event | None = None,
) -> ImageInfo:
    """Return what an image is, without a pool. With `check`, read it to its end, as an import does.

    Raises SourceError, InvalidImage, UnsupportedImage, MissingReader, ChecksumMismatch, NoRoomToStage.
    """
    options = TransferOptions(staging_dir=staging_dir, progress=progress, cancel=cancel)
    with open_image(source, options, "the inspection") as image:
        disk = image.disk
        if check:
            for _ in image.watch.over("reading", disk.pieces(), disk.allocated):
                pass
            image.finish()
        return ImageInfo(
            image=image.name,
            format=image.format,
            virtual_size=disk.virtual_size,
            allocated=disk.allocated,
            is_checked=check,
        )


class _Opening:
    def __init__(self, wanted: ImageSource, stack: ExitStack, staging: Staging, watch: Watch) -> None:
        self._wanted = wanted
        self._format = None if wanted.format is None else SYNONYMS.get(wanted.format, wanted.format)
        self._checksums = wanted.checksums()
        self._stack = stack
        self._staging = staging
        self._watch = watch
        self._source: Summed | None = None
        """The stream as it comes, if the image is one."""
        self._is_end_certain = False
        """Whether a stream that was cut off is noticed although its length is not known."""

    def open(self) -> OpenImage:
        where = self._wanted.where
        check_place(where)
        if self._wanted.checksum_file is not None:
            self._checksums.append(self._side_checksum(self._wanted.checksum_file))
        if isinstance(where, Sequence) and not isinstance(where, str):
            return self._chain(where)
        if is_url(where):
            download = self._stack.enter_context(
                self._url(where, is_guarded=bool(self._checksums), rate=self._wanted.rate)
            )
            if download.length is None:
                download.length = self._wanted.size
            if download.expected is not None:
                self._checksums.append(download.expected)
            self._is_end_certain = download.ends_by_itself
            return self._stream(download)
        if isinstance(where, (str, os.PathLike)):
            if _is_pipe(where):
                pipe = self._stack.enter_context(open(where, "rb"))  # noqa: SIM115  # the stack closes it
                return self._stream(stream_of(pipe, str(where), self._wanted.size))
            return self._file(self._stack.enter_context(FileSource(where)), summed=True)
        if _is_file_from_its_start(where):
            return self._file(self._stack.enter_context(FileSource(where)), summed=True)
        self._is_end_certain = _has_an_end(where)
        return self._stream(stream_of(where, _name_of(where), self._wanted.size))

    def _url(
        self, url: str, *, is_guarded: bool = False, rate: int | None = None
    ) -> AbstractContextManager[Download]:
        """Open a URL. Only the image's own server gets the headers."""
        wanted = self._wanted
        has_same_origin = is_url(wanted.where) and is_of_same_origin(url, wanted.where)
        return open_url(
            url,
            headers=wanted.headers if has_same_origin else {},
            ca_file=wanted.ca_file,
            insecure=wanted.insecure,
            is_guarded=is_guarded,
            rate=rate,
            pause=self._watch.pause,
        )

    def _side_checksum(self, place: str | os.PathLike[str]) -> Checksum:
        """Return the image's checksum in a file, or at a URL, that lists checksums. Raises SourceError."""
        where, called = self._wanted.where, os.fspath(place)
        check_place(called)
        image = PurePath(urllib.parse.urlsplit(where).path).name if is_url(where) else ""
        if isinstance(where, (str, os.PathLike)) and not is_url(where):
            image = PurePath(where).name
        if is_url(called):
            with self._url(called) as download:
                text = download.read(LARGEST_LIST + 1)
        else:
            with FileSource(called) as file:
                text = file.pread(0, min(file.size, LARGEST_LIST + 1))
        if len(text) > LARGEST_LIST:
            raise SourceError(called, problem="it is too large for a list of checksums")
        try:
            return Checksum.listed(text.decode("utf-8", "replace"), image)
        except ValueError as error:
            raise SourceError(
                name_of_url(called) if is_url(called) else called, problem=str(error)
            ) from error

    # ---- files

    def _chain(self, paths: Sequence[str | os.PathLike[str]]) -> OpenImage:
        if not paths:
            raise SourceError("the image", problem="no path was given")
        if self._format not in (None, "vhd") or self._checksums:
            raise ValueError("a chain of files consists of VHDs, and takes no checksum")
        layers = [vhd.from_file(self._stack.enter_context(FileSource(path))) for path in paths]
        return self._opened(self._flat(layers[0], layers[1:]), str(paths[0]), "vhd", _nothing)

    def _file(self, file: FileSource, *, summed: bool) -> OpenImage:
        if summed and self._checksums:
            check_file(file, self._checksums, self._watch.counting("reading", file.size))
        found = detect.of_file(file)
        if summed and self._is_packed(
            found
        ):  # a staged file has no sum to check, and was decompressed before
            self._is_end_certain = True
            self._source = Summed(as_stream(file), [])
            return self._read(Peekable(decompressed(Peekable(self._source))), _nothing)
        format = self._told(found)
        detect.refuse_unreadable(file.name, format)
        return self._opened(self._reader(file, format), file.name, format, _nothing)

    def _reader(self, file: ByteFile, format: str) -> DiskImage:
        if format in ("vhd", "vhd-fixed"):
            return self._flat(vhd.from_file(file), [])
        if format == "qcow2":
            return qcow2.from_file(file, tick=self._watch.counting("reading", None))
        if format == "vmdk":
            return vmdk.from_file(file, staging=self._staging, tick=self._watch.counting("staging", None))
        if format == "ova":
            return self._disk_of_ova(file)
        if format == "tar-raw":
            return raw_tarball.from_stream(as_stream(file))
        if format == "tar":
            return tarball.from_file(file, directory=self._staging.directory)
        return raw.from_file(file, format=format)

    def _disk_of_ova(self, file: ByteFile) -> DiskImage:
        disk, window = ova.disk_of(file, self._wanted.disk, tick=self._watch.counting("reading", None))
        inner: ByteFile = window
        if disk.is_packed:
            unpacked = _Limited(decompressed(Peekable(as_stream(window))))
            reason = f"{window.name} is compressed"
            tick = self._watch.counting("staging", None)
            inner = self._stack.enter_context(self._staging.stage(unpacked, reason=reason, tick=tick))
        format = detect.of_file(inner)
        if format in ("ova", "tar", "tar-raw", *_COMPRESSED):
            raise UnsupportedImage(
                window.name, problem=f"it is a {format}", remedy="unpack it, and give its disk"
            )
        detect.refuse_unreadable(window.name, format)
        return self._reader(inner, format)

    # ---- streams

    def _stream(self, stream: Stream) -> OpenImage:
        summed = self._source = Summed(stream, self._checksums)
        first = Peekable(summed)
        self._is_end_certain |= bool(self._checksums) or self._wanted.unknown_length
        if self._is_packed(detect.of_start(first.peek(detect.START))):
            self._is_end_certain = True
            return self._read(Peekable(decompressed(first)), summed.check)
        return self._read(first, summed.check)

    def _read(self, stream: Peekable, finish: Callable[[], None]) -> OpenImage:
        found = detect.of_stream(stream.peek(detect.START), stream.length)
        if found in _COMPRESSED and self._format not in _ANYTHING:
            remedy = "decompress it once, and give the result"
            raise UnsupportedImage(stream.name, problem="it is compressed twice", remedy=remedy)
        format = self._told(found)
        detect.refuse_unreadable(stream.name, format)
        if format not in (
            "tar",
            "tar-raw",
        ):  # a tarball stages its members itself, and would be held in memory here
            stream.remember()
        try:
            disk = self._as_it_comes(stream, format)
        except NeedsFile as reason:
            may_be_cut = format in _ANYTHING and not self._is_end_certain
            if may_be_cut and is_url(self._wanted.where):
                raise SourceError(stream.name, problem=_MAY_BE_CUT) from reason
            if may_be_cut:  # its end shows how much came, which helps the caller to judge
                log.warning("%s will be refused at its end: %s", stream.name, _MAY_BE_CUT)
            stream.rewind()
            tick = self._staging_tick()
            limited = _Limited(stream)
            file = self._stack.enter_context(self._staging.stage(limited, reason=str(reason), tick=tick))
            finish()
            if may_be_cut:
                problem = f"it ended after {file.size} bytes, and {_MAY_BE_CUT}"
                raise SourceError(stream.name, problem=problem) from reason
            return self._file(file, summed=False)
        stream.forget()
        return self._opened(disk, stream.name, format, finish)

    def _as_it_comes(self, stream: Peekable, format: str) -> DiskImage:
        """Read the stream in its order. Raises NeedsFile if the format needs random access."""
        if format == "vhd":
            is_dynamic = detect.of_start(stream.peek(detect.START)) == "vhd"
            return self._flat(vhd.from_stream(stream) if is_dynamic else vhd.fixed_from_stream(stream), [])
        if format == "tar-raw":
            return raw_tarball.from_stream(stream)
        if format == "tar":
            return tarball.from_stream(stream, staging=self._staging, tick=self._staging_tick())
        if format in ("raw", "iso"):
            is_told = self._format is not None
            check_end = None if is_told or format == "iso" else partial(detect.refuse_end, stream.name)
            return raw.from_stream(stream, format=format, check_end=check_end)
        raise NeedsFile(f"xenvol cannot read {format} images as a stream")

    def _staging_tick(self) -> Callable[[int], None]:
        """Return what reports the staging of a stream: by the bytes of its source, before they are decompressed."""
        source = self._source
        assert source is not None, "a stream is staged"
        return self._watch.following("staging", source.length, lambda: source.position)

    def _is_packed(self, found: str | None) -> bool:
        """Return whether to decompress it. What the caller calls a disk is decompressed only with `is_packed`."""
        return found in _COMPRESSED and (self._wanted.is_packed or self._format not in _ANYTHING)

    def _flat(self, leaf: vhd.Layer, parents: Sequence[vhd.Layer]) -> DiskImage:
        return chain.flatten(leaf, parents, directory=self._staging.directory)

    def _opened(self, disk: DiskImage, name: str, format: str, finish: Callable[[], None]) -> OpenImage:
        return OpenImage(disk, name, _NAMES.get(format, format), finish, self._staging.directory, self._watch)

    def _told(self, found: str) -> str:
        """Return the format: the caller's word, else what the bytes tell."""
        if self._format is None:
            return found
        if (self._format, found) in (("vhd", "vhd-fixed"), ("tar", "tar-raw"), ("tar", "ova")):
            return found
        return self._format


class _Limited:
    """A stream that ends with ImageTooLarge behind the largest disk: compressed zeros could go on for ever."""

    def __init__(self, stream: Stream) -> None:
        self.name, self.length = stream.name, stream.length
        self._stream = stream
        self._left = _LONGEST

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ImageTooLarge(self.name, size=_LONGEST - self._left, limit=_LONGEST, what="an image")
        return data


def _nothing() -> None:
    """Do nothing: the file was checked before."""


def _is_pipe(path: str | os.PathLike[str]) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode) or stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False  # opening it tells why


def _is_file_from_its_start(file: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.tell() == 0
    except (OSError, AttributeError, ValueError):
        return False


def _has_an_end(file: BinaryIO) -> bool:
    """Return whether the end of the file is certain: in memory, and in a regular file, no writer can break off."""
    if isinstance(file, io.BytesIO):
        return True
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, AttributeError, ValueError):
        return False


def _name_of(file: BinaryIO) -> str:
    name = getattr(file, "name", None)
    if name in ("<stdin>", 0):
        return "standard input"
    return str(name) if isinstance(name, (str, Path)) else "the stream"
