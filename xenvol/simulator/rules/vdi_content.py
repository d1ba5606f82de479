"""The content of a VDI: changed blocks, checksums, network block devices, databases of other pools."""

from __future__ import annotations

import base64
import hashlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from xenvol.simulator.failure import Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import backend, datapath, sr_hosts
from xenvol.simulator.rules.operations import operation
from xenvol.simulator.rules.vdi_life import assert_usable, drop_vbds, unused_vbds
from xenvol.simulator.rules.vdi_operations import TYPE_NAMES
from xenvol.simulator.sm.base import SMFailure

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

_BLOCK = 64 * 1024  # one bit of list_changed_blocks (sm/cbtutil)
_PATIENCE = 4.0  # seconds that data_destroy waits for the last VBD to be destroyed
_NBD_PORT = 10809
_CHANGED_BLOCKS_FAULT = 460
_NO_CONTENT = "/No content: this is a cbt_metadata VDI/"


@rule("VDI.enable_cbt")
def enable_cbt(call: Call, vdi: str) -> None:
    _switch_cbt(call, vdi, "enable_cbt", on=True)


@rule("VDI.disable_cbt")
def disable_cbt(call: Call, vdi: str) -> None:
    _switch_cbt(call, vdi, "disable_cbt", on=False)


def _switch_cbt(call: Call, vdi: str, name: str, *, on: bool) -> None:
    sr = call.db.row("VDI", vdi)["SR"]
    with operation(call, ("SR", sr, f"vdi_{name}"), ("VDI", vdi, name)):
        sr_hosts.host_for_sr(call.xapi, sr)
        call.db.set("VDI", vdi, cbt_enabled=on)


@rule("VDI.data_destroy")
def data_destroy(call: Call, vdi: str) -> None:
    """Destroy a snapshot's data, and keep its list of changed blocks; waits a little until its VBDs are destroyed."""
    db = call.db
    sr = db.row("VDI", vdi)["SR"]
    with operation(call, ("SR", sr, "vdi_data_destroy"), ("VDI", vdi, "data_destroy")):
        host = sr_hosts.host_for_sr(call.xapi, sr)
        before = db.row("VDI", vdi)["type"]
        if before == "cbt_metadata":
            return
        db.set("VDI", vdi, type="cbt_metadata")
        try:
            assert_usable(call, vdi, host)
            _wait_for_vbds_to_go(call, vdi)
            drop_vbds(call, unused_vbds(call, vdi, "data_destroy"))
        except BaseException:
            db.set("VDI", vdi, type=before)
            raise
        db.map_add("VDI", vdi, "other_config", "content_id", _NO_CONTENT)


def _wait_for_vbds_to_go(call: Call, vdi: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while call.db.children(vdi, "VBDs"):
        left = deadline - time.monotonic()
        if left <= 0 or call.xapi.is_closed:
            raise Failure("VDI_IN_USE", vdi, "data_destroy")
        call.xapi.lock.wait(left)


@rule("VDI.list_changed_blocks")
def list_changed_blocks(call: Call, vdi_from: str, vdi_to: str) -> str:
    """Return one bit for every 64 KiB, set if they differ, most significant first, as base64."""
    db = call.db
    sr = db.row("VDI", vdi_to)["SR"]
    marks = ("SR", sr, "vdi_list_changed_blocks"), ("VDI", vdi_to, "list_changed_blocks")
    with operation(call, *marks):
        host = sr_hosts.host_for_sr(call.xapi, sr)
        db.row("VDI", vdi_from)
        if not all(db.row("VDI", vdi)["cbt_enabled"] for vdi in (vdi_from, vdi_to)):
            fault = SMFailure(_CHANGED_BLOCKS_FAULT, "Changed block tracking is not enabled")
            raise backend.from_fault(fault, sr, vdi_to)
        files = [datapath.content(call, host, vdi) for vdi in (vdi_from, vdi_to)]
        return call.outside(lambda: _changed(*files))


def _changed(old: Path, new: Path) -> str:
    pairs = itertools.zip_longest(_blocks(old), _blocks(new), fillvalue=b"")
    bits = "".join("1" if before != after else "0" for before, after in pairs)
    octets = [bits[at : at + 8].ljust(8, "0") for at in range(0, len(bits), 8)]
    return base64.b64encode(bytes(int(octet, 2) for octet in octets)).decode()


@rule("VDI.checksum")
def checksum(call: Call, vdi: str) -> str:
    host = sr_hosts.host_for_sr(call.xapi, call.db.row("VDI", vdi)["SR"])
    datapath.assert_nbd(call, vdi)
    file = datapath.content(call, host, vdi)
    return call.outside(lambda: _digest(file))


def _digest(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block


@rule("VDI.get_nbd_info")
def get_nbd_info(call: Call, vdi: str) -> list[dict[str, Any]]:
    """Return where clients can read the disk: every address of a plugged host in a network that is for NBD."""
    db = call.db
    row = db.row("VDI", vdi)
    _assert_has_data(row["type"], vdi)
    networks = {
        network
        for network in db.refs("network")
        if {"nbd", "insecure_nbd"} & set(db.row("network", network)["purpose"])
    }
    hosts = [db.row("PBD", pbd)["host"] for pbd in sr_hosts.plugged_pbds(db, row["SR"])]
    return [
        {
            "exportname": f"/{row['uuid']}?session_id={call.session}",
            "address": address,
            "port": _NBD_PORT,
            "cert": "",
            "subject": db.row("host", host)["hostname"],
        }
        for host in hosts
        if db.exists("host", host)
        for pif in (db.row("PIF", pif) for pif in db.children(host, "PIFs"))
        if pif["currently_attached"] and pif["network"] in networks
        for address in (pif["IP"], *pif["IPv6"])
        if address
    ]


def _assert_has_data(vdi_type: str, vdi: str) -> None:
    if vdi_type == "cbt_metadata":
        raise Failure("VDI_INCOMPATIBLE_TYPE", vdi, TYPE_NAMES[vdi_type])


@rule("VDI.generate_config")
def generate_config(call: Call, host: str, vdi: str) -> NoReturn:
    """Raise `Unimplemented`: no modelled driver tells how to attach a disk without xapi."""
    with operation(call, ("VDI", vdi, "generate_config")):
        sr_hosts.assert_live(call.xapi, host)
        assert_usable(call, vdi, host)
        raise backend.Unimplemented


@rule("VDI.open_database")
def open_database(call: Call, vdi: str) -> NoReturn:
    """Refuse: no simulated disk holds the database of another pool."""
    vdi_type = call.db.row("VDI", vdi)["type"]
    if vdi_type != "metadata":
        raise Failure("VDI_INCOMPATIBLE_TYPE", vdi, TYPE_NAMES[vdi_type])
    raise Failure("COULD_NOT_IMPORT_DATABASE", "Database does not match local schema.")


@rule("VDI.read_database_pool_uuid")
def read_database_pool_uuid(_call: Call, _vdi: str) -> str:
    """Return "": xapi reads a cache, and does not check the reference (trace 03#101)."""
    return ""
