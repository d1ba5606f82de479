"""Scan, update and probe an SR, and set the names that the driver also gets (xapi_sr.ml)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from xenvol.simulator.failure import Failure, internal_error
from xenvol.simulator.rulebook import rule
from xenvol.simulator.rules import backend, releases, secret, sr_hosts, vdi_rows
from xenvol.simulator.rules.operations import operation
from xenvol.simulator.rules.sr_operations import features

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call
    from xenvol.simulator.sm.base import Driver

_SCANS_AT_MOST = 10  # xapi gives up after these (xapi_sr.ml, scan_rec)


@rule("SR.scan")
def scan(call: Call, sr: str) -> None:
    with operation(call, ("SR", sr, "scan")):
        host = sr_hosts.host_for_sr(call.xapi, sr)
        with backend.holding(call, "SR", host, call.db.row("SR", sr)["uuid"]):
            _scan_until_stable(call, sr, host)
        db = call.db
        vdi_rows.refresh_all(db, sr)
        allocated = sum(db.row("VDI", vdi)["virtual_size"] for vdi in db.children(sr, "VDIs"))
        db.set("SR", sr, virtual_allocation=allocated, clustered=False)
        db.map_remove("SR", sr, "other_config", "dirty")


def _scan_until_stable(call: Call, sr: str, host: str) -> None:
    """Scan; newer xapi scans again if a row came or went during the scan."""

    def command(driver: Driver) -> None:
        driver.scan()
        driver.update()

    for _ in range(_SCANS_AT_MOST):
        before = set(call.db.children(sr, "VDIs"))
        try:
            backend.run(call, sr, host, command, fault=backend.SCAN_FAULT, on_srmaster=True)
        except backend.Unimplemented:
            raise Failure("SR_OPERATION_NOT_SUPPORTED", sr) from None
        is_stable = before == set(call.db.children(sr, "VDIs"))
        if is_stable or not releases.since(call.xapi, releases.SCANS_UNTIL_STABLE):
            return
    raise internal_error("SR.scan retry limit exceeded")


@rule("SR.update")
def update(call: Call, sr: str) -> None:
    """Refresh the sizes; needs no lock (CA-27630) and no feature (trace 02#81)."""
    refresh(call, sr, sr_hosts.host_for_sr(call.xapi, sr))


def refresh(call: Call, sr: str, host: str) -> None:
    """Have the driver on that host write the SR's sizes."""
    with backend.holding(call, "SR", host, call.db.row("SR", sr)["uuid"]):
        backend.run(call, sr, host, lambda driver: driver.update())


@rule("SR.set_name_label")
def set_name_label(call: Call, sr: str, value: str) -> None:
    _set_name(call, sr, name_label=value)


@rule("SR.set_name_description")
def set_name_description(call: Call, sr: str, value: str) -> None:
    _set_name(call, sr, name_description=value)


def _set_name(call: Call, sr: str, **name: str) -> None:
    """Set a name; the SR must be plugged, although only its row changes."""
    host = sr_hosts.host_for_sr(call.xapi, sr)
    call.db.set("SR", sr, **name)
    if not releases.since(call.xapi, releases.SCANS_UNTIL_STABLE):
        refresh(call, sr, host)


@rule("SR.probe")
def probe(
    call: Call, host: str, device_config: dict[str, str], sr_type: str, sm_config: dict[str, str]
) -> str:
    """Return the driver's XML.

    Passwords of the device_config remain as secrets (docs/background/recordings.md).
    """
    config = secret.move_passwords(call, device_config)
    sr_hosts.assert_live(call.xapi, host)
    sr_type = sr_type.lower()
    if not backend.has_driver(call, sr_type):
        raise Failure("SR_UNKNOWN_DRIVER", sr_type)
    if "SR_PROBE" not in features(call.db, sr_type):
        with backend.inside_storage_layer():
            raise Failure("SR_BACKEND_FAILURE", "Operation 'sr_probe' not supported by this SR type", "", "")
    with backend.holding(call, "attach or detach", host):
        return backend.probe(call, host, sr_type, config, sm_config)


@rule("SR.probe_ext")
def probe_ext(
    call: Call, host: str, device_config: dict[str, str], sr_type: str, sm_config: dict[str, str]
) -> NoReturn:
    """Raise SR_OPERATION_NOT_SUPPORTED: drivers of the old interface answer with XML, which this call cannot return."""
    probe(call, host, device_config, sr_type, sm_config)
    raise Failure("SR_OPERATION_NOT_SUPPORTED")
