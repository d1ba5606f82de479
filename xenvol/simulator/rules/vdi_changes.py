"""Changes to an existing VDI: size, names, how a VM may use it, and fields that only drivers may write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import Failure, internal_error
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import backend, releases, sr_hosts, vdi_rows
from xenvol.simulator.rules.access import assert_storage_session
from xenvol.simulator.rules.operations import operation, update_allowed_operations
from xenvol.simulator.rules.port import UUID, find_by_location
from xenvol.simulator.rules.vdi_life import assert_legal_names, assert_usable
from xenvol.simulator.rules.vdi_operations import TYPE_NAMES
from xenvol.simulator.sm.base import SMFailure

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call
    from xenvol.simulator.sm.base import Driver


@rule("VDI.resize")
def resize(call: Call, vdi: str, size: int) -> None:
    _resize(call, vdi, size, "resize")


@rule("VDI.resize_online")
def resize_online(call: Call, vdi: str, size: int) -> None:
    """Resize; xapi removed this message for years, and has it again (docs/background/xapi.md 1.3)."""
    if not releases.since(call.xapi, releases.RESIZES_ONLINE):
        raise Failure("MESSAGE_REMOVED")
    _resize(call, vdi, size, "resize_online")


def _resize(call: Call, vdi: str, size: int, name: str) -> None:
    db = call.db
    sr = db.row("VDI", vdi)["SR"]
    with operation(call, ("SR", sr, "vdi_resize"), ("VDI", vdi, name)):
        host = sr_hosts.host_for_sr(call.xapi, sr)
        assert_usable(call, vdi, host)
        uuid = db.row("VDI", vdi)["uuid"]
        try:
            info = backend.run(
                call,
                sr,
                host,
                lambda driver: driver.vdi_resize(uuid, size),
                fault=backend.RESIZE_FAULT,
                vdi=vdi,
                on_srmaster=True,
            )
        except backend.Unimplemented:
            raise backend.storage_error("Unimplemented", f"VDI.{name}") from None
        db.set("VDI", vdi, virtual_size=info.virtual_size, physical_utilisation=info.physical_utilisation)


@rule("VDI.update")
def update(call: Call, vdi: str) -> None:
    sr = call.db.row("VDI", vdi)["SR"]
    with operation(call, ("VDI", vdi, "update")):
        _tell_driver(call, vdi, sr_hosts.host_for_sr(call.xapi, sr))


@rule("VDI.set_name_label")
def set_name_label(call: Call, vdi: str, value: str) -> None:
    _set_name(call, vdi, name_label=value)


@rule("VDI.set_name_description")
def set_name_description(call: Call, vdi: str, value: str) -> None:
    _set_name(call, vdi, name_description=value)


def _set_name(call: Call, vdi: str, **name: str) -> None:
    """Set a name; marks nothing, and needs the SR plugged."""
    host = sr_hosts.host_for_sr(call.xapi, call.db.row("VDI", vdi)["SR"])
    call.db.set("VDI", vdi, **name)
    _tell_driver(call, vdi, host)


def _tell_driver(call: Call, vdi: str, host: str) -> None:
    """Update the driver's copy of the names; a driver that cannot take them reports a missing disk."""
    row = call.db.row("VDI", vdi)
    sr_hosts.assert_plugged(call.db, row["SR"], host)
    try:
        sr_hosts.srmaster(call.xapi, row["SR"])
        assert_legal_names(row["name_label"], row["name_description"])
    except (SMFailure, Failure):
        raise backend.storage_error("Vdi_does_not_exist", row["location"]) from None
    vdi_rows.refresh(call.db, vdi)


@rule("VDI.set_on_boot")
def set_on_boot(call: Call, vdi: str, value: str) -> None:
    _assert_vms_halted(call, vdi)
    db = call.db
    sr = db.row("VDI", vdi)["SR"]
    with operation(call, ("SR", sr, "vdi_set_on_boot"), ("VDI", vdi, "set_on_boot")):
        host = sr_hosts.host_for_sr(call.xapi, sr)
        sr_hosts.assert_plugged(db, sr, host)
        if value == "reset":
            uuid = db.row("VDI", vdi)["uuid"]
            backend.run(call, sr, host, lambda driver: _empty_leaf(driver, uuid), vdi=vdi, on_srmaster=True)
        db.set("VDI", vdi, on_boot=value)


def _empty_leaf(driver: Driver, uuid: str) -> None:
    """Make a clone and destroy it, which leaves the disk without data of its own (storage_smapiv1.ml)."""
    leaf = driver.vdi_clone(uuid).uuid
    driver.vdi_delete(leaf)
    driver.xapi.forget(leaf)


@rule("VDI.set_allow_caching")
def set_allow_caching(call: Call, vdi: str, value: bool) -> None:
    _assert_vms_halted(call, vdi)
    call.db.set("VDI", vdi, allow_caching=value)


def _assert_vms_halted(call: Call, vdi: str) -> None:
    db = call.db
    for vbd in db.get("VDI", vdi, "VBDs"):
        vm = db.row("VBD", vbd)["VM"]
        state = db.row("VM", vm)["power_state"]
        if state != "Halted":
            raise Failure("VM_BAD_POWER_STATE", vm, "halted", state.lower())


@rule("VDI.force_unlock")
def force_unlock(call: Call, vdi: str) -> None:
    with operation(call, ("VDI", vdi, "force_unlock")):
        sr_hosts.host_for_sr(call.xapi, call.db.row("VDI", vdi)["SR"])
        raise Failure("MESSAGE_DEPRECATED")


def _for_drivers(name: str) -> None:
    field = name.removeprefix("VDI.set_")

    @rule(name)
    def set_field(call: Call, vdi: str, value: Any) -> None:
        assert_storage_session(call, call.db.row("VDI", vdi)["SR"])
        if field == "metadata_of_pool" and call.db.row("VDI", vdi)["type"] == "cbt_metadata":
            raise Failure("VDI_INCOMPATIBLE_TYPE", vdi, TYPE_NAMES["cbt_metadata"])
        call.db.set("VDI", vdi, **{field: value})
        if field == "cbt_enabled":
            update_allowed_operations(call.xapi, "VDI", vdi)


for _field in (
    *("managed", "sharable", "read_only", "missing", "virtual_size", "physical_utilisation"),
    *("is_a_snapshot", "snapshot_of", "snapshot_time", "metadata_of_pool", "cbt_enabled"),
):
    _for_drivers(f"VDI.set_{_field}")


@rule("VDI.db_forget")
def db_forget(call: Call, vdi: str) -> None:
    assert_storage_session(call, call.db.row("VDI", vdi)["SR"])
    call.db.delete("VDI", vdi)


@rule("VDI.db_introduce")
def db_introduce(call: Call, *arguments: Any) -> str:
    assert_storage_session(call, arguments[3])
    return str(pool_introduce(call, *arguments))


@rule("VDI.pool_introduce")
def pool_introduce(
    call: Call,
    uuid: str,
    name_label: str,
    name_description: str,
    sr: str,
    vdi_type: str,
    sharable: bool,
    read_only: bool,
    other_config: dict[str, str],
    location: str,
    xenstore_data: dict[str, str],
    sm_config: dict[str, str],
    *more: Any,
) -> str:
    """Add a row and nothing else, for a pool that a host joins; every value is taken as given."""
    db = call.db
    db.row("SR", sr)
    if find_by_location(call, sr, location) is not None:
        raise Failure("LOCATION_NOT_UNIQUE", sr, location)
    if UUID.match(uuid) is None:
        raise Failure("UUID_INVALID", "VDI", uuid)
    if db.by_uuid("VDI", uuid) is not None:
        raise internal_error(f'Db_exn.Uniqueness_constraint_violation("VDI", "uuid", "{uuid}")')
    vdi = db.create(
        "VDI",
        uuid=uuid,
        name_label=name_label,
        name_description=name_description,
        SR=sr,
        type=vdi_type,
        sharable=sharable,
        read_only=read_only,
        other_config=other_config,
        location=location,
        xenstore_data=xenstore_data,
        sm_config=sm_config,
        on_boot="persist",
        **dict(zip(_MORE, more, strict=False)),
    )
    update_allowed_operations(call.xapi, "VDI", vdi)
    return vdi


_MORE = (
    *("managed", "virtual_size", "physical_utilisation", "metadata_of_pool"),
    *("is_a_snapshot", "snapshot_time", "snapshot_of", "cbt_enabled"),
)
"""The optional parameters of VDI.pool_introduce after sm_config."""
