"""A disk becomes an image of one moment, and the pool ends as it began.

If a VM writes to the disk, xenvol reads a snapshot. The snapshot has the transfer mark, and is erased
afterwards.
"""

from __future__ import annotations

import errno
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

from xenvol.images.disk_checks import check_may_be_read, get_vdi, writers_of
from xenvol.images.disk_image import PIECE, SECTOR, VHD_MAX, DiskImage, Piece, Stream
from xenvol.images.errors import NoRoomToStage, TransferFailed
from xenvol.images.formats.vhd_writer import write_vhd
from xenvol.images.options import HERE, Environment, TransferOptions
from xenvol.images.output_file import (
    Compression,
    Output,
    check_free,
    compressed,
    is_sparse,
    output,
    write_raw,
)
from xenvol.images.progress import Progress, Watch, ignore_progress
from xenvol.images.sources.staging import Staging
from xenvol.images.transfer_vdis import take_snapshot
from xenvol.images.transports import Transport, TransportName
from xenvol.images.transports.http import HTTPTransport, sends_vhd
from xenvol.pool.transfer_mark import check_is_whole
from xenvol.pool.undo import Undo
from xenvol.pool.view import View
from xenvol.session.refs import SRRef, VDIRef

ExportFormat = Literal["raw", "vhd", "tarball"]
_FOOTER: Final = 512  # bytes of a VHD's footer; the VHD begins with a copy of it


@dataclass(frozen=True, kw_only=True)
class ExportedImage:
    """The result of an export. Sizes in bytes."""

    vdi_uuid: str
    target: str
    format: str
    compression: str
    virtual_size: int
    """Of the disk."""
    size: int
    """Of the image before compression; holes count."""
    road: str
    was_in_use: bool
    """Whether it was read from a snapshot."""
    residue: tuple[str, ...]
    """What could not be taken back; empty if all was."""


def export_image(
    session: Any,
    vdi: str,
    target: Output,
    *,
    format: ExportFormat = "raw",
    compression: Compression = "none",
    overwrite: bool = False,
    road: TransportName = "auto",
    staging_dir: str | Path | None = None,
    progress: Callable[[Progress], None] = ignore_progress,
    cancel: threading.Event | None = None,
    here: Environment = HERE,
) -> ExportedImage:
    """Write the content of a VDI (reference, uuid or name) to a path, or into an open binary file.

    ``raw`` leaves holes if the target is a file. ``vhd`` is a dynamic VHD. ``tarball`` holds that VHD as ``0.vhd``,
    as image services store it. It is staged, since a tarball gives the length of a member before the member. A file
    gets its name when it is complete. `road` names the transport. Raises UnknownDisk, DiskNotSuited, HalfWrittenDisk,
    NoTransport, TargetError, NoRoomToStage, TransferFailed, TransferCancelled, XapiError, XapiUnreachable.
    """
    options = TransferOptions(
        transport=road, staging_dir=staging_dir, progress=progress, cancel=cancel, environment=here
    )
    return write_image(
        session, vdi, target, options, format=format, compression=compression, overwrite=overwrite
    )


def write_image(
    session: Any,
    vdi: str,
    target: Output,
    options: TransferOptions,
    *,
    format: ExportFormat = "raw",
    compression: Compression = "none",
    overwrite: bool = False,
) -> ExportedImage:
    """As `export_image`, with the options in one value."""
    view, undo = View.of(session), Undo()
    check_free(target, overwrite=overwrite)
    vdi_ref, vdi_rec = get_vdi(view, vdi)
    sr_ref = SRRef(vdi_rec["SR"])
    in_use = bool(writers_of(view, vdi_rec))
    check_may_be_read(view, vdi_rec, view.record("SR", sr_ref), in_use=in_use)
    attempt, transport = options.begin(view, sr_ref)
    size = int(vdi_rec["virtual_size"])
    try:
        source_ref = take_snapshot(view, undo, vdi_ref, vdi_rec, attempt) if in_use else vdi_ref
        with output(target, overwrite=overwrite) as file, Staging(options.staging_dir) as staging:
            least, watch = int(vdi_rec["physical_utilisation"]), options.watch("the export")
            writing = _Writing(transport, source_ref, size, staging, watch, least=least)
            with compressed(file, compression, image=f"VDI {vdi_rec['uuid']}") as stream:
                written = writing.write(format, stream)
            if not in_use:
                _check_still_unused(view, vdi_ref)
    except BaseException as error:
        undo.unwind(error)
        raise
    return ExportedImage(
        vdi_uuid=vdi_rec["uuid"],
        target=str(target) if isinstance(target, (str, Path)) else str(getattr(target, "name", "a stream")),
        format=format,
        compression=compression,
        virtual_size=size,
        size=written,
        road=transport.name,
        was_in_use=in_use,
        residue=tuple(undo.unwind() and undo.unwind()),  # a second try for what failed
    )


def _check_still_unused(view: View, vdi_ref: VDIRef) -> None:
    """Raise TransferFailed if a VM got the disk while it was read, HalfWrittenDisk if an import did.

    The image then mixes several moments.
    """
    view.read({"VDI": [vdi_ref]})
    vdi_rec = view.known("VDI", vdi_ref)
    if vdi_rec is None:
        return
    check_is_whole(vdi_rec)
    if writers := writers_of(view, vdi_rec):
        problem = f"{', '.join(writers)} got the disk during the export, and may have written to it: export it again"
        raise TransferFailed(f"reading VDI {vdi_rec['uuid']}", problem=problem)


class _Writing:
    def __init__(
        self, transport: Transport, vdi_ref: VDIRef, size: int, staging: Staging, watch: Watch, *, least: int
    ) -> None:
        self._transport = transport
        self._vdi_ref = vdi_ref
        self._size = size
        self._staging = staging
        self._least = least
        self._watch = watch

    def write(self, format: ExportFormat, file: BinaryIO) -> int:
        """Write the image, and return its length in bytes."""
        if format == "raw":
            return self._raw(file)
        if format == "vhd":
            return self._vhd(file)
        with self._staged_vhd("a tarball gives the length of a member before the member") as staged:
            return self._tarball(staged, file)

    def _raw(self, file: BinaryIO) -> int:
        with self._transport.contents(self._vdi_ref) as disk:
            if disk.is_ordered or is_sparse(file):
                write_raw(self._pieces(disk), self._size, file)
                return self._size
            with self._staged("disk.raw", "the host sends it in no order") as staged:
                write_raw(self._pieces(disk), self._size, staged)
                staged.seek(0)
                return _copy(staged.read, file)

    def _pieces(self, disk: DiskImage) -> Iterator[Piece]:
        return self._watch.over("writing", disk.pieces(), disk.allocated)

    def _vhd(self, file: BinaryIO) -> int:
        """Write xapi's own VHD of the disk, if the transport is HTTP and a host sends one; else one made here."""
        if isinstance(self._transport, HTTPTransport) and (sends_vhd(self._size) or self._size > VHD_MAX):
            with self._transport.vhd_stream(self._vdi_ref) as stream:
                return self._checked_vhd(stream, file)
        if is_sparse(file):
            size = self._size + -self._size % SECTOR
            with self._transport.contents(self._vdi_ref) as disk:
                return write_vhd(self._pieces(disk), size, file)
        with self._staged_vhd("a VHD is written in no order") as staged:
            return _copy(staged.read, file)

    def _checked_vhd(self, stream: Stream, file: BinaryIO) -> int:
        """Write the VHD. Raises TransferFailed if it does not end with the footer that it begins with: it was cut
        off."""
        tick = self._watch.counting("writing", None)
        first, last, size = b"", b"", 0
        while data := stream.read(PIECE):
            first = first or data[:_FOOTER]
            last = (last + data)[-_FOOTER:]
            size += file.write(data)
            tick(len(data))
        if len(first) < _FOOTER or first != last:
            raise TransferFailed(f"reading {stream.name}", problem="the host sent an incomplete VHD")
        return size

    @contextmanager
    def _staged_vhd(self, reason: str) -> Iterator[BinaryIO]:
        """Give a file that holds the VHD. Raises NoRoomToStage."""
        with self._staged("0.vhd", reason) as staged:
            self._vhd(staged)
            staged.seek(0)
            yield staged

    @contextmanager
    def _staged(self, name: str, reason: str) -> Iterator[BinaryIO]:
        self._staging.check_room(self._least, reason=reason)
        with open(self._staging.empty_file(name), "r+b") as staged:
            try:
                yield staged
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                directory, free = str(self._staging.directory), self._staging.room()
                raise NoRoomToStage(directory, needed=self._size, free=free, reason=reason) from error

    def _tarball(self, staged: BinaryIO, file: BinaryIO) -> int:
        """Write a tarball with one member, the leaf of a chain of one (docs/background/peers.md, e.6)."""
        member = tarfile.TarInfo("0.vhd")
        member.size = os.fstat(staged.fileno()).st_size
        member.mtime = int(time.time())
        counted = _Counted(file)
        with tarfile.open(
            fileobj=cast(BinaryIO, counted), mode="w|", format=tarfile.GNU_FORMAT, bufsize=PIECE
        ) as archive:
            archive.addfile(member, staged)
        return counted.size


class _Counted:
    """A write-only file that counts its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self.size += len(data)
        return len(data)


def _copy(read: Callable[[int], bytes], file: BinaryIO) -> int:
    size = 0
    while data := read(PIECE):
        size += file.write(data)
    return size
