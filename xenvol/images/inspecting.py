"""What an image is, without a pool: its format, its disk's size, and whether anything is wrong with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xenvol.images.opening import Source, opened
from xenvol.images.progress import Progress, Watch, say_nothing


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """Sizes in bytes."""

    image: str
    format: str
    virtual_size: int
    """Of the disk that it holds."""
    allocated: int | None
    """Of that, what it holds data for, at most; None where only reading all of it would tell."""
    is_checked: bool
    """Whether all of it was read, and nothing is wrong with it."""


def inspect_image(
    source: Source,
    *,
    check: bool = False,
    staging_dir: str | Path | None = None,
    progress: Callable[[Progress], None] = say_nothing,
    cancel: threading.Event | None = None,
) -> ImageInfo:
    """What `source` is. With `check` it is read to its end, as an import would.

    Raises SourceError, InvalidImage, UnsupportedImage, MissingReader, ChecksumMismatch, NoRoomToStage.
    """
    watch = Watch("the inspection", progress, cancel)
    with opened(source, staging_dir=staging_dir, watch=watch) as image:
        disk = image.disk
        if check:
            for _ in watch.over("reading", disk.pieces(), disk.allocated):
                pass
            image.finish()
        return ImageInfo(
            image=image.name,
            format=image.format,
            virtual_size=disk.virtual_size,
            allocated=disk.allocated,
            is_checked=check,
        )
