"""Merge a chain of differencing VHDs into one disk: each sector comes from the layer nearest to the leaf that has
it.

The layers may come from one stream. So a parent is asked for only after its child's pieces have been taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from uuid import UUID

from xenvol.images.disk_image import DiskImage, Piece
from xenvol.images.errors import InvalidImage, MissingParent
from xenvol.images.formats.coverage import Coverage
from xenvol.images.formats.vhd import UNKNOWN, Layer

MAX_CHAIN = 30
"""Layers; the limit of the storage managers (docs/background/xapi.md, 5.5)."""


def flatten(leaf: Layer, parents: Iterable[Layer], *, directory: Path | None = None) -> DiskImage:
    """Return the disk of `leaf` over its `parents`, nearest first. The leaf gives the size.

    `directory` is for the temporary file of `Coverage`. Raises InvalidImage, MissingParent: at once for the leaf,
    and for parents that are a sequence; for others when their turn comes, while the pieces are taken.
    """
    check = _Check(leaf)
    if isinstance(parents, Sequence):
        layer = leaf
        for parent in parents:
            check.link(layer, parent)
            layer = parent
        check.end(layer)
    return _Flat(leaf, parents, directory)


class _Flat:
    """The DiskImage of a chain."""

    def __init__(self, leaf: Layer, parents: Iterable[Layer], directory: Path | None) -> None:
        self._leaf = leaf
        self._parents = parents
        self._directory = directory
        is_alone = not _needs_parent(leaf)
        self.format = leaf.format
        self.virtual_size = leaf.virtual_size
        self.allocated = leaf.allocated if is_alone else None
        self.is_ordered = leaf.is_ordered and is_alone

    def __repr__(self) -> str:
        return f"<chain of VHDs of {self._leaf!r}>"

    def pieces(self) -> Iterator[Piece]:
        """Raises InvalidImage, MissingParent, SourceError, NoRoomToStage, TargetError."""
        check = _Check(self._leaf)
        parents = iter(self._parents)
        child = layer = self._leaf
        if not _needs_parent(layer):
            yield from layer.pieces()
            _check_leaf(layer)  # a fixed VHD in a stream shows its footer only now
        else:
            with Coverage(self.virtual_size, directory=self._directory) as coverage:
                while _needs_parent(layer):
                    for piece in self._on_disk(layer):
                        yield from coverage.take(piece)
                    child, parent = layer, next(parents, None)
                    if parent is None:
                        raise _missing(child)
                    check.link(child, parent)
                    layer = parent
                was_known = _uuid_of(layer) is not None
                for piece in self._on_disk(layer):
                    yield from coverage.left(piece)
                if not was_known:
                    check.identity(child, layer, layer.uuid)
        for more in parents:
            check.link(layer, more)

    def _on_disk(self, layer: Layer) -> Iterator[Piece]:
        """Yield the pieces within the leaf's size; a parent may be larger."""
        for piece in layer.pieces():
            if piece.end <= self.virtual_size:
                yield piece
            elif piece.offset < self.virtual_size:
                yield Piece(piece.offset, piece.data[: self.virtual_size - piece.offset])


class _Check:
    """Checks one walk from the leaf to the base."""

    def __init__(self, leaf: Layer) -> None:
        self._leaf = leaf
        self._names: dict[UUID, str] = {leaf.uuid: leaf.name}
        self._count = 1
        _check_leaf(leaf)

    def link(self, child: Layer, parent: Layer) -> None:
        if not _needs_parent(child):
            raise _bad(
                parent, f"it is given as a parent of {child.name}, which is a {child.kind} VHD and has none"
            )
        self._count += 1
        if self._count > MAX_CHAIN:
            raise _bad(
                self._leaf,
                f"its chain has more than {MAX_CHAIN} layers",
                remedy="coalesce some first, with `vhd-util coalesce`",
            )
        uuid = _uuid_of(parent)
        if uuid is not None:
            self.identity(child, parent, uuid)

    def identity(self, child: Layer, parent: Layer, uuid: UUID) -> None:
        """Check that `parent`, which has this uuid, is the parent that `child` names. Call it once for each link."""
        if child.parent_uuid != uuid:
            raise _bad(
                child,
                f"it holds what differs from {child.parent_uuid}, and {parent.name}, which follows, is {uuid}",
            )
        if uuid in self._names:
            raise _bad(
                self._leaf,
                f"its chain refers to itself: {parent.name} and {self._names[uuid]} are both {uuid}",
            )
        self._names[uuid] = parent.name

    def end(self, layer: Layer) -> None:
        if _needs_parent(layer):
            raise _missing(layer)


def _uuid_of(layer: Layer) -> UUID | None:
    """Return the layer's UUID; None if not known yet: a fixed VHD in a stream, before its end. Zeros are valid
    elsewhere."""
    return None if layer.kind == "fixed" and layer.uuid == UNKNOWN else layer.uuid


def _needs_parent(layer: Layer) -> bool:
    return layer.kind == "differencing"


def _check_leaf(leaf: Layer) -> None:
    if leaf.is_hidden:
        raise _bad(
            leaf,
            "it is hidden: it is only a parent of other VHDs",
            remedy="give the chain with its leaf first",
        )


def _missing(layer: Layer) -> MissingParent:
    name = f" ({layer.parent_name})" if layer.parent_name else ""
    return MissingParent(layer.name, format="vhd", parent=f"{layer.parent_uuid}{name}")


def _bad(layer: Layer, problem: str, *, remedy: str | None = None) -> InvalidImage:
    return InvalidImage(layer.name, format="vhd", problem=problem, remedy=remedy)
