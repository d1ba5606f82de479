"""The life of a VDI: create, introduce, forget, destroy (xapi_vdi.ml; message_forwarding.ml, module VDI)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import NULL, Failure
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import backend, sr_hosts, vdi_rows
from xenvol.simulator.rules.operations import operation, update_allowed_operations
from xenvol.simulator.rules.port import find_by_location
from xenvol.simulator.rules.vdi_operations import TYPE_NAMES, is_active
from xenvol.simulator.sm.base import SMFailure, VDISpec

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call
    from xenvol.simulator.sm.base import Driver

_ILLEGAL_IN_XML = (
    re.compile(  # as SM checks it: more than XML forbids, \r and \x7f too (sm/core/util.py, trace 06#73)
        "[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufddf\ufffe\uffff"
        + "".join(
            f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0x110000, 0x10000)
        )
        + "]"
    )
)
_ILLEGAL_XML_CHAR = 447
_ILLEGAL_NAME = (
    "The name and/or description you supplied contains one or more unsupported characters. "
    "The name and/or description must contain valid XML characters. "
    "See http://www.w3.org/TR/2004/REC-xml-20040204/#charsets for more information."
)


@rule("VDI.create")
def create(call: Call, record: dict[str, Any]) -> str:
    """Create a VDI. The driver decides its size and sm_config; other fields are stored as given."""
    db, sr = call.db, record["SR"]
    spec = VDISpec(
        record["virtual_size"],
        record["type"],
        record["name_label"],
        record["name_description"],
        record["read_only"],
        record["sharable"],
        record["sm_config"],
    )
    with operation(call, ("SR", sr, "vdi_create")):
        host = sr_hosts.host_for_sr(call.xapi, sr)
        if spec.type == "cbt_metadata":
            raise Failure("VDI_INCOMPATIBLE_TYPE", "", TYPE_NAMES[spec.type])
        sr_hosts.assert_plugged(db, sr, host)

        def command(driver: Driver) -> str:
            assert_legal_names(spec.name_label, spec.name_description)
            return driver.vdi_create(spec).uuid

        stamp = db.stamp
        uuid = backend.run(call, sr, host, command, fault=backend.CREATE_FAULT, on_srmaster=True)
        vdi = by_uuid(call, uuid)
        change = db.last_change("VDI", vdi)
        if change is not None and change.created > stamp:  # and it is not a LUN that was known before
            db.set("VDI", vdi, metadata_of_pool="")  # xapi gives the driver no reference (trace 03#8)
        vdi_rows.refresh(db, vdi)
        own = {name: record[name] for name in ("other_config", "sharable", "tags", "xenstore_data")}
        db.set("VDI", vdi, **own)
        update_allowed_operations(call.xapi, "VDI", vdi)
        return vdi


@rule("VDI.introduce")
def introduce(
    call: Call,
    uuid: str,
    name_label: str,
    name_description: str,
    sr: str,
    vdi_type: str,
    sharable: bool,
    _read_only: bool,
    other_config: dict[str, str],
    location: str,
    xenstore_data: dict[str, str],
    sm_config: dict[str, str],
    *_ignored: object,
) -> str:
    """Introduce the disk that the driver finds at the location; its uuid may differ from the requested one.

    If the driver refuses for any reason, the client gets an error that the disk does not exist
    (docs/background/recordings.md, finding 9 (storage)). Sizes, read_only and so on come from the driver, not
    from the caller (trace 03#113).
    """
    db = call.db
    with operation(call, ("SR", sr, "vdi_introduce")):
        host = sr_hosts.host_for_sr(call.xapi, sr)
        sr_hosts.assert_plugged(db, sr, host)
        there = find_by_location(call, sr, location)
        if there is not None and db.row("VDI", there)["uuid"] != uuid:
            raise Failure("LOCATION_NOT_UNIQUE", sr, location)
        spec = VDISpec(0, vdi_type, sm_config=sm_config)
        try:
            info = backend.run(call, sr, host, lambda driver: driver.vdi_introduce(uuid, spec, location))
            vdi = by_uuid(call, info.uuid)
        except Failure:
            raise backend.storage_error("Vdi_does_not_exist", location) from None
        vdi_rows.refresh(db, vdi)
        names = {"name_label": name_label, "name_description": name_description}
        given = {field: name for field, name in names.items() if name}
        db.set(
            "VDI",
            vdi,
            other_config=other_config,
            xenstore_data=xenstore_data,
            sharable=sharable,
            type=vdi_type,
            **given,
        )
        update_allowed_operations(call.xapi, "VDI", vdi)
        return vdi


@rule("VDI.forget")
def forget(call: Call, vdi: str) -> None:
    """Delete the row; its unplugged VBDs dangle, and the next scan may bring the disk back."""
    with operation(call, ("VDI", vdi, "forget")):
        call.db.delete("VDI", vdi)


@rule("VDI.destroy")
def destroy(call: Call, vdi: str) -> None:
    """Delete the data, the row, and the VBDs, which must all be unplugged (trace 12#59)."""
    db = call.db
    sr = db.row("VDI", vdi)["SR"]
    with operation(call, ("SR", sr, "vdi_destroy"), ("VDI", vdi, "destroy")):
        host = sr_hosts.host_for_sr(call.xapi, sr)
        assert_usable(call, vdi, host)
        vbds = unused_vbds(call, vdi, "destroy")
        row = db.row("VDI", vdi)
        backend.run(
            call,
            sr,
            host,
            lambda driver: driver.vdi_delete(row["uuid"]),
            fault=backend.DELETE_FAULT,
            vdi=vdi,
            on_srmaster=True,
        )
        if db.exists("VDI", vdi):
            db.delete("VDI", vdi)
        drop_vbds(call, vbds)
        if row["type"] == "suspend":  # no other VDI can be a VM's suspend image
            for vm in db.refs("VM"):
                if db.row("VM", vm)["suspend_VDI"] == vdi:
                    db.set("VM", vm, suspend_VDI=NULL)


def assert_usable(call: Call, vdi: str, host: str) -> None:
    """Raise SR_HAS_NO_PBDS [sr] or VDI_NOT_MANAGED [vdi] if the host cannot use the VDI."""
    row = call.db.row("VDI", vdi)
    sr_hosts.assert_plugged(call.db, row["SR"], host)
    if not row["managed"]:
        raise Failure("VDI_NOT_MANAGED", vdi)


def unused_vbds(call: Call, vdi: str, what: str) -> list[str]:
    """Return the VDI's VBDs; VDI_IN_USE if one of them is in use."""
    vbds = call.db.children(vdi, "VBDs")
    if any(is_active(call.db.row("VBD", vbd)) for vbd in vbds):
        raise Failure("VDI_IN_USE", vdi, what)
    return vbds


def drop_vbds(call: Call, vbds: list[str]) -> None:
    for vbd in vbds:
        if call.db.exists("VBD", vbd):
            call.db.delete("VBD", vbd)


def by_uuid(call: Call, uuid: str) -> str:
    vdi = call.db.by_uuid("VDI", uuid)
    if vdi is None:
        raise Failure("UUID_INVALID", "VDI", uuid)
    return vdi


def assert_legal_names(*names: str) -> None:
    """Raise SM's error for names that XML cannot hold:

    SM stores names as XML for every driver (sm/SRCommand.py).
    """
    if any(_ILLEGAL_IN_XML.search(name) for name in names):
        raise SMFailure(_ILLEGAL_XML_CHAR, _ILLEGAL_NAME)
