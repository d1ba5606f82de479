"""A host's answer as a disk image. Its end counts only when the task has succeeded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from xenvol.images.disk_image import PIECE, EndOfFile, NeedsFile, Piece, without_zeros
from xenvol.images.errors import InvalidImage, TransferFailed, UnsupportedImage
from xenvol.images.formats import vhd
from xenvol.images.transports.exchange import Broken, Exchange
from xenvol.images.transports.tasks import TransferTask

_LAST_WORDS: Final = 16
"""Pages of `_PAGE` bytes. A failure that a host writes into a body is shorter, and then the body ends."""
_PAGE: Final = 4096


class DiskDownload:
    """The body of an answer, as a Stream. Its end counts only when the task has succeeded."""

    length: int | None = None

    def __init__(self, task: TransferTask, exchange: Exchange, *, name: str) -> None:
        self.name = name
        self._task = task
        self._exchange = exchange

    def read(self, size: int, /) -> bytes:
        """As `Stream.read`. Raises TransferFailed, XapiUnreachable."""
        if self._task.is_settled:
            return b""
        try:
            data = self._exchange.read(size)
        except Broken as error:
            self._task.judge(error.cause)
            raise self.failed(f"the connection broke ({error})") from error
        if not data and size:
            self._task.judge(None)
        return data

    def explain(self, problem: str) -> TransferFailed:
        """Return the error for a bad body. It reads on first: the body may end in an error text, and then the task
        knows more."""
        for _ in range(_LAST_WORDS):
            if not self.read(_PAGE):
                break
        return self.failed(problem)

    def failed(self, problem: str) -> TransferFailed:
        return TransferFailed(self._task.what, problem=problem)


class VHDContents:
    """The disk, from the VHD that a host sends."""

    format = "vhd"

    def __init__(self, layer: vhd.Layer, download: DiskDownload) -> None:
        self._layer = layer
        self._download = download
        self.virtual_size = layer.virtual_size
        self.allocated = layer.allocated
        self.is_ordered = layer.is_ordered

    def pieces(self) -> Iterator[Piece]:
        with _no_image_is_bad(self._download):
            yield from self._layer.pieces()
            while self._download.read(PIECE):
                pass


class RawContents:
    """The disk, from its raw bytes, without the zeros."""

    format = "raw"
    is_ordered = True

    def __init__(self, size: int, download: DiskDownload) -> None:
        self._download = download
        self.virtual_size = size
        self.allocated: int | None = size

    def pieces(self) -> Iterator[Piece]:
        return without_zeros(self._pieces())

    def _pieces(self) -> Iterator[Piece]:
        position = 0
        while position < self.virtual_size:
            size = min(PIECE, self.virtual_size - position)
            data = self._download.read(size)
            if len(data) < size:  # the body ends early, perhaps in an error text
                end = position + len(data)
                raise self._download.explain(f"it ended after {end} of {self.virtual_size} bytes")
            yield Piece(position, data)
            position += len(data)
        if self._download.read(1):
            raise self._download.explain(f"the host sent more than the disk's {self.virtual_size} bytes")


def read_layer(download: DiskDownload, size: int) -> vhd.Layer | None:
    """Return the VHD that the host sends; None if it cannot be read in its order."""
    with _no_image_is_bad(download):
        try:
            layer = vhd.from_stream(download)
        except NeedsFile:
            return None
    if layer.virtual_size != size or layer.parent_uuid is not None:
        raise download.failed(
            f"the host sent a VHD that has {layer.virtual_size} bytes, and the disk has {size}"
        )
    return layer


@contextmanager
def _no_image_is_bad(download: DiskDownload) -> Iterator[None]:
    """Turn a bad VHD into TransferFailed: the host sent it, and the caller's image is not at fault."""
    try:
        yield
    except (InvalidImage, UnsupportedImage, EndOfFile) as error:
        raise download.explain(
            f"the host sent a bad VHD ({getattr(error, 'problem', 'it ended too soon')})"
        ) from error
