"""``PUT /import_raw_vdi``: fill a disk, or make one and fill it (import_raw_vdi.ml; trace sm/30#9-226).

The answer 200 is sent before the body is read, so only the task tells the outcome.
"""

from __future__ import annotations

from xenvol.simulator import tasks, xmlrpc
from xenvol.simulator.failure import Failure
from xenvol.simulator.images import rawstream, vhdstream
from xenvol.simulator.images.body import Body
from xenvol.simulator.images.refusals import Rejected
from xenvol.simulator.images.sink import Sink
from xenvol.simulator.images.visit import IO_ERROR, Visit
from xenvol.simulator.rulebook import Call
from xenvol.simulator.rules import datapath
from xenvol.simulator.rules.nested import invoke

REALM = "put_import_raw_vdi"
_BAD_REQUEST, _NOT_FOUND = "HTTP/1.0 400 Bad Request", "HTTP/1.0 404 Not Found"
_NOT_ZEROED = ("lvm", "lvmoiscsi", "lvmohba")
"""SR types in which a new disk may contain old data (sm_fs_ops.ml, must_write_zeroes_into_new_vdi)."""


def serve(visit: Visit, call: Call) -> None:
    """Serve the request; an exception becomes the page that is the answer, or ends it."""
    exchange = visit.exchange
    with call.xapi.lock:
        given = exchange.parameters.get("vdi")
        vdi = None if given is None else visit.reference("VDI", given)
    try:
        with call.xapi.lock:
            sr = _sr(visit, call, vdi)
            if sr is None:
                visit.fail_task(Failure("VDI_MISSING"))
                exchange.end("HTTP/1.1 400 Bad Request")
                exchange.stays_open = True  # trace sm/30#65
                return
            if not visit.is_at_the_right_host(sr):
                return
        with visit.under_task(call, "Importing raw VDI") as under_task:
            if visit.refusal is not None:
                raise visit.refusal
            try:
                _serve_here(visit, under_task, vdi, sr)
            except Rejected as rejected:
                visit.fail_task(rejected.failure, under_task.task)
                exchange.end(rejected.status)
    except Failure as failure:
        visit.fail_task(failure)  # once more: this one counts if the first one came too early
        exchange.end("HTTP/1.1 400 Bad Request")
        raise


def _sr(visit: Visit, call: Call, vdi: str | None) -> str | None:
    parameters = visit.exchange.parameters
    if vdi is not None:
        return str(call.db.row("VDI", vdi)["SR"])
    if "sr_id" in parameters:
        return parameters["sr_id"]  # the reference is not checked yet (trace sm/30#180)
    if "sr_uuid" in parameters:
        return visit.reference("SR", parameters["sr_uuid"])
    return None


def _serve_here(visit: Visit, call: Call, vdi: str | None, sr: str) -> None:
    exchange = visit.exchange
    is_chunked = "chunked" in exchange.parameters
    format = exchange.parameters.get("format", "raw").lower()
    if format not in ("raw", "vhd", "tar") or (format == "tar" and vdi is not None):
        raise Rejected(_NOT_FOUND, f"Unknown format {format}")
    if format != "raw" and is_chunked:
        raise Rejected(_NOT_FOUND, "Cannot handle chunked VHD")
    if (encoding := exchange.request.headers.get("transfer-encoding")) is not None:
        raise Rejected(_NOT_FOUND, f"Cannot handle encoding: {encoding}")
    if vdi is None:
        vdi = _made(call, sr, format, exchange.body.length)
    exchange.accept(f"task-id:{call.task}", "content-type: application/octet-stream")
    body = Body(exchange.stream, None) if is_chunked else exchange.body
    with visit.plugged(call, vdi, "RW") as path:
        with call.xapi.lock:
            size = call.db.row("VDI", vdi)["virtual_size"]
            room = datapath.room(call, visit.host, vdi)
        with Sink(path, size, room) as sink:
            if is_chunked:
                rawstream.receive_chunks(body, sink)
            elif format == "raw":
                rawstream.receive(body, sink, tasks.tell_progress(call))
            elif _is_not_zeroed(call, vdi):
                raise IO_ERROR  # vhd-tool writes no zeros between a VHD's blocks, and refuses such a disk (impl.ml)
            else:
                vhdstream.receive(body, sink, tasks.tell_progress(call))
    visit.complete_task(call, xmlrpc.write(vdi))


def _made(call: Call, sr: str, format: str, length: int | None) -> str:
    """Make a VDI for the image; it stays even if the transfer fails (import_raw_vdi.ml)."""
    if format == "vhd":
        raise Rejected(_BAD_REQUEST, "Importing a VHD directly into an SR not yet supported")
    if format != "raw" or length is None:
        raise Rejected(_BAD_REQUEST, "Not enough info supplied to import")
    record = {
        "name_label": "Imported VDI",
        "name_description": "",
        "SR": sr,
        "virtual_size": length,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
        "xenstore_data": {},
        "sm_config": {},
        "tags": [],
    }
    with call.xapi.lock:
        return str(invoke(call, "VDI.create", record))


def _is_not_zeroed(call: Call, vdi: str) -> bool:
    """Return True if xapi expects that a new disk of that kind may hold old bytes."""
    with call.xapi.lock:
        disk = call.db.row("VDI", vdi)
        sr = call.db.row("SR", disk["SR"])
        if sr["type"] == "equal":
            return str(sr["sm_config"].get("allocation", "")).lower() == "thick"
        is_raw = disk["sm_config"].get("type") == "raw" or sr["sm_config"].get("use_vhd") != "true"
        return sr["type"] in _NOT_ZEROED and is_raw
