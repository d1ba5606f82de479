"""Other calls on SRs: hosts that see it, HA and disaster recovery, sharing, sizes, metrics, blobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenvol.simulator.failure import Failure, internal_error
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import sr_hosts
from xenvol.simulator.rules.access import assert_storage_session
from xenvol.simulator.rules.nested import invoke
from xenvol.simulator.rules.sr_operations import features

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

_STATEFILE_SIZE = 4096 * 65  # one global section and one for each of 64 hosts (xha_statefile.ml)
_REDO_LOG_SIZE = 951 * 2**22  # 4 GB less two extents of 4 MiB (redo_log.ml, minimum_vdi_size)
_HA_SPACE = 2**22 + _REDO_LOG_SIZE  # the statefile takes an extent
_NEVER = "19700101T00:00:00Z"


@rule("SR.get_supported_types")
def get_supported_types(call: Call) -> list[str]:
    return [call.db.row("SM", sm)["type"] for sm in call.db.refs("SM")]


@rule("SR.get_live_hosts")
def get_live_hosts(call: Call, sr: str) -> list[str]:
    """Return the live hosts that have the SR plugged; none for an SR that does not exist."""
    db = call.db
    hosts = {db.row("PBD", pbd)["host"] for pbd in sr_hosts.plugged_pbds(db, sr)}
    return [host for host in db.refs("host") if host in hosts and sr_hosts.is_live(db, host)]


@rule("SR.set_shared")
def set_shared(call: Call, sr: str, value: bool) -> None:
    pbds = call.db.children(sr, "PBDs")
    if not value and len(pbds) > 1:
        raise Failure("SR_HAS_MULTIPLE_PBDS", *pbds)
    call.db.set("SR", sr, shared=value)


@rule("SR.set_physical_size")
def set_physical_size(call: Call, sr: str, value: int) -> None:
    _set_size(call, sr, physical_size=value)


@rule("SR.set_virtual_allocation")
def set_virtual_allocation(call: Call, sr: str, value: int) -> None:
    _set_size(call, sr, virtual_allocation=value)


@rule("SR.set_physical_utilisation")
def set_physical_utilisation(call: Call, sr: str, value: int) -> None:
    _set_size(call, sr, physical_utilisation=value)


def _set_size(call: Call, sr: str, **size: int) -> None:
    assert_storage_session(call, sr)
    call.db.set("SR", sr, **size)


@rule("SR.assert_can_host_ha_statefile")
def assert_can_host_ha_statefile(call: Call, sr: str) -> None:
    _assert_everywhere(call, sr)
    known = _features(call, sr)
    if "VDI_GENERATE_CONFIG" not in known and "VDI_ATTACH_OFFLINE" not in known:
        raise Failure("SR_OPERATION_NOT_SUPPORTED", sr)
    _assert_room(call, sr, "ha_statefile", _STATEFILE_SIZE)
    _assert_room(call, sr, "redo_log", _REDO_LOG_SIZE)


@rule("SR.assert_supports_database_replication")
def assert_supports_database_replication(call: Call, sr: str) -> None:
    _assert_everywhere(call, sr)
    if "SR_METADATA" not in _features(call, sr):
        raise Failure("SR_OPERATION_NOT_SUPPORTED", sr)


@rule("SR.enable_database_replication")
def enable_database_replication(call: Call, sr: str) -> None:
    """Find or make the disk for the pool's database; writing the database is not modelled."""
    db = call.db
    assert_supports_database_replication(call, sr)
    vdi = next(iter(_metadata_disks(call, sr, _REDO_LOG_SIZE)), None)
    if vdi is None:
        spec: dict[str, Any] = {
            "name_label": "Metadata for DR",
            "name_description": "Used for disaster recovery",
            "SR": sr,
            "virtual_size": _REDO_LOG_SIZE,
            "type": "metadata",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            "xenstore_data": {},
            "sm_config": {"type": "raw"},
            "tags": [],
        }
        vdi = str(invoke(call, "VDI.create", spec))
        db.set("VDI", vdi, metadata_of_pool=db.first("pool"))
    db.set("VDI", vdi, metadata_latest=True)


@rule("SR.disable_database_replication")
def disable_database_replication(call: Call, sr: str) -> None:
    for vdi in _metadata_disks(call, sr, 0):
        call.db.set("VDI", vdi, metadata_latest=False)
        invoke(call, "VDI.destroy", vdi)


@rule("SR.create_new_blob")
def create_new_blob(call: Call, sr: str, name: str, mime_type: str, public: bool) -> str:
    """Create a blob; if the SR has one of that name, refuse after the blob is made (xapi_sr.ml)."""
    db = call.db
    blob = db.create(
        "blob", mime_type=mime_type or "application/octet-stream", public=public, size=0, last_updated=_NEVER
    )
    if name in db.row("SR", sr)["blobs"]:
        raise Failure("MAP_DUPLICATE_KEY", "SR", "blobs", sr, name)
    db.map_add("SR", sr, "blobs", name, blob)
    return blob


@rule("SR.get_data_sources")
def get_data_sources(call: Call, sr: str) -> list[dict[str, Any]]:
    """Return nothing: a simulated SR has no measurements."""
    sr_hosts.host_for_sr(call.xapi, sr)
    return []


@rule("SR.record_data_source", "SR.query_data_source")
def use_data_source(call: Call, sr: str, data_source: str) -> None:
    sr_hosts.host_for_sr(call.xapi, sr)
    raise internal_error(f"Rrd_interface.Rrdd_error([S(Rrdd_internal_error);S({data_source})])")


@rule("SR.forget_data_source_archives")
def forget_data_source_archives(call: Call, sr: str, _data_source: str) -> None:
    sr_hosts.host_for_sr(call.xapi, sr)


def _assert_everywhere(call: Call, sr: str) -> None:
    """Raise SR_HAS_NO_PBDS [sr] unless every host has a plugged PBD for the SR."""
    db = call.db
    db.row("SR", sr)
    pbds = db.children(sr, "PBDs")
    hosts = {db.row("PBD", pbd)["host"] for pbd in pbds}
    if len(hosts) < db.count("host") or len(sr_hosts.plugged_pbds(db, sr)) < len(pbds):
        raise Failure("SR_HAS_NO_PBDS", sr)


def _features(call: Call, sr: str) -> dict[str, int]:
    sr_type = call.db.row("SR", sr)["type"]
    if all(call.db.row("SM", sm)["type"] != sr_type for sm in call.db.refs("SM")):
        raise Failure("INTERNAL_ERROR", "SR does not have corresponding SM record", sr, sr_type)
    return features(call.db, sr_type)


def _assert_room(call: Call, sr: str, vdi_type: str, size: int) -> None:
    """Require a disk of that type to reuse, or room for all that HA needs (xha_statefile.ml, ha_fits_sr)."""
    db = call.db
    disks = [db.row("VDI", vdi) for vdi in db.children(sr, "VDIs")]
    if any(disk["type"] == vdi_type and disk["virtual_size"] >= size for disk in disks):
        return
    row = db.row("SR", sr)
    if row["physical_size"] - row["physical_utilisation"] < _HA_SPACE:
        raise Failure("SR_SOURCE_SPACE_INSUFFICIENT", sr)


def _metadata_disks(call: Call, sr: str, size: int) -> list[str]:
    """Return the SR's disks that hold this pool's database."""
    db, pool = call.db, call.db.first("pool")
    rows = {vdi: db.row("VDI", vdi) for vdi in db.children(sr, "VDIs")}
    return [
        vdi
        for vdi, row in rows.items()
        if row["type"] == "metadata" and row["metadata_of_pool"] == pool and row["virtual_size"] >= size
    ]
