"""A tarball holds one chain of VHDs. Any other content is refused.

Its members are, leaf first, 0.vhd, 1.vhd…, or the older names snap.vhd, image.vhd, base.vhd; a single VHD may have
any name. swap.vhd is skipped: a service makes that disk anew (docs/background/peers.md, e.6).

A stream is read in its order. A layer that comes before its turn is staged in a file. No layer is, if the leaf comes
first and its parents in order. What follows the last layer is checked after the last piece; a problem there is an
error like a damaged layer, and the written disk is worthless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, overload

from xenvol.images.disk_image import PIECE, ByteFile, DiskImage, NeedsFile, Stream
from xenvol.images.errors import InvalidImage
from xenvol.images.formats import vhd
from xenvol.images.formats.chain import flatten
from xenvol.images.formats.tar_headers import BLOCK, Bad, Headers, Member, shown
from xenvol.images.formats.tar_names import Names
from xenvol.images.sources.files import FileSource, Window
from xenvol.images.sources.staging import Staging
from xenvol.images.sources.streams import Peekable

_VHD_FOOTER: Final = b"conectix"  # a VHD that is not fixed begins with a copy of its footer
_VHD_HEADER: Final = b"cxsparse"  # usually follows that copy


def from_file(file: ByteFile, *, directory: Path | None = None) -> DiskImage:
    """Open an uncompressed tar with its members in any order. Nothing is staged.

    All headers, and all tables of the VHDs, are read and checked at once. `directory` is that of `flatten`. Raises
    InvalidImage, MissingParent, UnsupportedImage, ImageTooLarge, SourceError.
    """
    headers = Headers(file.name, lambda offset, size: _part(file, offset, size))
    names = Names(file.name)
    while (member := headers.next()) is not None:
        names.take(member)
        if member.start + member.size > file.size:
            raise _cut(file.name, member, file.size)

    def layer(name: str) -> vhd.Layer:
        member = names.members[name]
        part = Window(file, offset=member.start, size=member.size, name=_called(name, file.name))
        return vhd.from_file(part)

    leaf, *parents = names.chain()
    return flatten(layer(leaf), _Layers(parents, layer), directory=directory)


def from_stream(stream: Stream, *, staging: Staging, tick: Callable[[int], None] | None = None) -> DiskImage:
    """Open an uncompressed tar as a stream. It is read up to the leaf's blocks, or to its end if the leaf comes
    last.

    `staging` must stay open until the pieces have been taken. `tick` gets the bytes that are staged, and may raise.
    Raises InvalidImage, MissingParent, UnsupportedImage, ImageTooLarge, SourceError, NoRoomToStage, TargetError, but
    never NeedsFile; so do the pieces.
    """
    leaf, parents = _Walk(stream, staging, tick).layers()
    return flatten(leaf, parents, directory=staging.directory)


class _Layers(Sequence[vhd.Layer]):
    """The layers below the leaf. Each access opens a layer anew: the tables of a whole chain are too large for
    memory."""

    def __init__(self, names: Sequence[str], layer: Callable[[str], vhd.Layer]) -> None:
        self._names = names
        self._layer = layer

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> vhd.Layer: ...
    @overload
    def __getitem__(self, index: slice) -> _Layers: ...
    def __getitem__(self, index: int | slice) -> vhd.Layer | _Layers:
        if isinstance(index, slice):
            return _Layers(self._names[index], self._layer)
        return self._layer(self._names[index])


class _Walk:
    """Walks a tar that comes as a stream, and gives each layer in its turn."""

    def __init__(self, stream: Stream, staging: Staging, tick: Callable[[int], None] | None) -> None:
        self._stream = stream
        self._staging = staging
        self._tick = tick
        self._position = 0
        self._member: Member | None = None  # the stream is in its data, or in the header after it
        self._headers = Headers(stream.name, self._read)
        self._names = Names(stream.name)
        self._files: dict[str, FileSource] = {}  # staged layers that are still needed
        self._chain: list[str] | None = None  # known at the end of the tar

    def layers(self) -> tuple[vhd.Layer, Iterable[vhd.Layer]]:
        """Return the leaf and the layers below. They are a sequence, which can be checked, if all are known already."""
        while (name := self._advance()) is not None and not self._names.leads(name):
            self._wait(name)
        if name is not None:
            leaf = self._open(name)
            if leaf.kind == "differencing" and self._names.stands_alone(name):
                return leaf, ()
            return leaf, self._parents(name)
        assert self._chain is not None
        return self._open(self._chain[0]), _Layers(self._chain[1:], self._open)

    def _parents(self, leaf: str) -> Iterator[vhd.Layer]:
        """Yield the layers below the leaf as they come; at the end, read the tar to its end."""
        name: str | None = leaf
        while name is not None:
            below = self._below(name)
            if name in self._files:
                self._files.pop(name).close()
            if below is not None:
                yield self._open(below)
            name = below

    def _below(self, name: str) -> str | None:
        wanted = self._names.below(name)
        while wanted is None or wanted not in self._files:
            came = self._advance()
            if came is None:
                assert self._chain is not None
                return next(iter(self._chain[self._chain.index(name) + 1 :]), None)
            if came == wanted:
                break
            self._wait(came)
        return wanted

    def _advance(self) -> str | None:
        """Return the name of the next layer, with the stream at its data; None at the end of the tar."""
        while self._chain is None:
            self._member = self._headers.next()
            if self._member is None:
                self._chain = self._names.chain()
            elif (name := self._names.take(self._member)) is not None:
                return name
        return None

    def _wait(self, name: str) -> None:
        self._stage(name, self._data(name), "it comes before the layers that lie above it")

    def _stage(self, name: str, data: Stream, why: str) -> None:
        reason = f"{_called(name, self._stream.name)} has to be read from a file: {why}"
        self._files[name] = self._staging.stage(data, reason=reason, tick=self._tick)

    def _open(self, name: str) -> vhd.Layer:
        if name in self._files:
            return vhd.from_file(self._files[name])
        data = Peekable(self._data(name))
        start = data.peek(2 * BLOCK)
        if not (start.startswith(_VHD_FOOTER) or start.startswith(_VHD_HEADER, BLOCK)):
            return vhd.fixed_from_stream(data)  # its name leaves no other kind
        data.remember()
        try:
            layer = vhd.from_stream(data)
        except NeedsFile as error:
            data.rewind()
            self._stage(name, data, str(error))
            return vhd.from_file(self._files[name])
        data.forget()
        return layer

    def _data(self, name: str) -> Stream:
        assert self._member is not None
        return _Data(self, self._member, _called(name, self._stream.name))

    def _read(self, offset: int, size: int) -> bytes:
        """Read for the headers; skip the bytes before `offset`."""
        while self._position < offset:
            if not self._take(min(PIECE, offset - self._position)):
                raise self._cut()
        return self._take(size)

    def read_data(self, member: Member, size: int) -> bytes:
        """Read for `_Data`."""
        if member is not self._member:
            raise ValueError("the tar has been read past it")
        size = min(size, member.start + member.size - self._position)
        data = self._take(size) if size > 0 else b""
        if len(data) < size:
            raise self._cut()
        return data

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._position += len(data)
        return data

    def _cut(self) -> InvalidImage:
        assert self._member is not None
        return _cut(self._stream.name, self._member, self._position)


class _Data:
    """The data of one member as a stream, as long as the walk is at that member."""

    def __init__(self, walk: _Walk, member: Member, name: str) -> None:
        self.name = name
        self.length: int | None = member.size
        self._walk = walk
        self._member = member

    def read(self, size: int, /) -> bytes:
        return self._walk.read_data(self._member, size)


def _called(name: str, image: str) -> str:
    """Return the layer's name for errors."""
    return f"{name} in {image}"


def _cut(image: str, member: Member, end: int) -> InvalidImage:
    return Bad(image).cut(f"it ends in {shown(member.name)}", end)


def _part(file: ByteFile, offset: int, size: int) -> bytes:
    """Return these bytes, or fewer at the end."""
    return file.pread(offset, min(size, file.size - offset)) if offset < file.size else b""
