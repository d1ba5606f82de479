"""``GET /export_raw_vdi``: send a disk raw or as a VHD (export_raw_vdi.ml; trace sm/30#12, #228-376)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import BinaryIO

from xenvol.simulator import tasks
from xenvol.simulator.failure import Failure
from xenvol.simulator.images import vhdimage
from xenvol.simulator.images.refusals import Rejected
from xenvol.simulator.images.vhdformat import BLOCK, MAX_SIZE
from xenvol.simulator.images.vhdimage import Range
from xenvol.simulator.images.visit import Visit
from xenvol.simulator.rulebook import Call

REALM = "get_export_raw_vdi"
_CONTENT_TYPES = {"raw": "application/octet-stream", "vhd": "application/vhd"}
_STEP = 8 << 20
"""Bytes between two updates of the progress."""


class NoVDI(Exception):
    """The request names no VDI."""


def serve(visit: Visit, call: Call) -> None:
    """Serve the request; an exception becomes the page that is the answer, or ends it."""
    parameters = visit.exchange.parameters
    if "vdi" not in parameters:
        raise NoVDI
    with call.xapi.lock:
        vdi = visit.reference("VDI", parameters["vdi"])
        if not visit.is_at_the_right_host(call.db.row("VDI", vdi)["SR"]):
            return
    with visit.under_task(call, "Exporting raw VDI") as under_task:
        if visit.refusal is not None:
            raise visit.refusal
        try:
            _serve_here(visit, under_task, vdi)
        except Rejected as rejected:
            visit.fail_task(rejected.failure, under_task.task)
            visit.exchange.end(rejected.status)


def _serve_here(visit: Visit, call: Call, vdi: str) -> None:
    exchange = visit.exchange
    format = exchange.parameters.get("format", "raw").lower()
    if format not in _CONTENT_TYPES:
        raise Rejected("HTTP/1.0 404 Not Found", f"Unknown format {format}")
    with call.xapi.lock:
        disk = call.db.row("VDI", vdi)
        size, uuid = disk["virtual_size"], disk["uuid"]
    if format == "vhd" and size > MAX_SIZE:
        raise Failure("VDI_TOO_LARGE", vdi, str(MAX_SIZE))
    exchange.accept(
        f"task-id:{call.task}",
        f"content-type:{_CONTENT_TYPES[format]}",
        f'content-disposition: attachment; filename="{uuid}.{format}"',
    )
    with ExitStack() as stack:
        path = stack.enter_context(visit.plugged(call, vdi, "RO"))
        source = stack.enter_context(path.open("rb"))
        if format == "raw":
            parts: Iterator[bytes | Range] = iter([Range(0, size)])
        else:
            parts = _vhd(visit, call, stack, source, size)
        if format == "vhd" and size % BLOCK:
            with suppress(OSError):  # the client has gone, which it does not notice
                _send(visit, call, source, _without_last(parts), size)
            _read_on_for_ever(visit, call, vdi)
            return
        _send(visit, call, source, parts, size)
    visit.complete_task(call)


def _without_last(parts: Iterator[bytes | Range]) -> Iterator[bytes | Range]:
    """Leave out the footer at the end."""
    yield from (part for part, _ in itertools.pairwise(parts))


def _read_on_for_ever(visit: Visit, call: Call, vdi: str) -> None:
    """Hold the disk and the task until the host dies: vhd-tool reads on behind the end of such a disk.

    The client may close the connection, and cancel or destroy the task: nothing changes (recordings.md, finding 2
    (xapi)). Recorded of 24.16.0; no later release is known to end.
    """
    while not visit.gone.wait(0.05) and not call.xapi.is_closed:
        with call.xapi.lock:
            if not call.db.exists("VDI", vdi):  # the simulator was reset
                return


def _vhd(visit: Visit, call: Call, stack: ExitStack, source: BinaryIO, size: int) -> Iterator[bytes | Range]:
    """Return a VHD of the whole disk, or of the changes since a base, looked up only now (trace sm/30#333)."""
    seconds = int(call.xapi.clock())
    given = visit.exchange.parameters.get("base")
    if given is None:
        return vhdimage.parts(source, size, seconds=seconds)
    with call.xapi.lock:
        base = visit.reference("VDI", given)
        row = call.db.row("VDI", base)
        base_size, base_uuid = row["virtual_size"], row["uuid"]
    path = stack.enter_context(visit.plugged(call, base, "RO"))
    base_file = stack.enter_context(path.open("rb"))
    return vhdimage.delta_parts(source, size, base_file, base_size, base_uuid, seconds=seconds)


def _send(visit: Visit, call: Call, source: BinaryIO, parts: Iterator[bytes | Range], size: int) -> None:
    progress = tasks.tell_progress(call)
    for part in parts:
        if isinstance(part, bytes):
            visit.exchange.send(part)
            continue
        end = part.offset + part.size
        for offset in range(part.offset, end, _STEP):
            step = min(_STEP, end - offset)
            visit.exchange.send_range(source, offset, step)
            progress(min(offset + step, size), max(size, 1))
