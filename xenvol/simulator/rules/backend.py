"""The one place that runs storage drivers and turns their errors into XenAPI errors.

One command uses one driver object, made for one SR on one host. Faults become errors as in
docs/background/xapi.md 2.1. The caller handles `Unimplemented` (fault 38), because each call of xapi does so
differently.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from xenvol.simulator.failure import NULL, Failure, internal_error
from xenvol.simulator.rules import sr_hosts
from xenvol.simulator.rules.port import Port
from xenvol.simulator.sm import registry
from xenvol.simulator.sm.base import (
    NOT_IMPLEMENTED,
    Driver,
    HostInfo,
    Request,
    SMFailure,
    SRInfo,
    StorageError,
    XapiRefusal,
)
from xenvol.simulator.waits import STORAGE

if TYPE_CHECKING:
    from xenvol.simulator.rulebook import Call

T = TypeVar("T")

GENERAL_FAULT = 202  # SMGeneral: SM's fault for a refusal by xapi, in most commands
SCAN_FAULT = 40  # SRScan
CREATE_FAULT, DELETE_FAULT, RESIZE_FAULT, SNAPSHOT_FAULT, CLONE_FAULT = 78, 80, 110, 82, 83
ATTACH_FAULT = 46  # VDIUnavailable


class Unimplemented(Failure):
    """The driver does not know the command, although it may advertise it (fault 38)."""

    def __init__(self) -> None:
        super().__init__("INTERNAL_ERROR", "Smint.Not_implemented_in_backend")


def has_driver(call: Call, sr_type: str) -> bool:
    """Return True if the pool has that SR type: an SM record and a driver."""
    return sm_of(call, sr_type) is not None and registry.driver(sr_type) is not None


def sm_of(call: Call, sr_type: str) -> str | None:
    """Return the SM record of an SR type, or None."""
    db = call.db
    return next((sm for sm in db.refs("SM") if db.row("SM", sm)["type"] == sr_type), None)


def bind(call: Call, pbd: str) -> None:
    """Bind a PBD to the domain that runs the SR's driver, here always the host's control domain.

    Raises SR_UNKNOWN_DRIVER [type]. The control domain and the PBD refer to each other from then on
    (system_domains.ml; trace 02#73).
    """
    db = call.db
    row = db.row("PBD", pbd)
    dom0 = db.row("host", row["host"])["control_domain"]
    domain = row["other_config"].get("storage_driver_domain", NULL)
    domain = domain if db.exists("VM", domain) else dom0
    db.map_add("VM", domain, "other_config", "is_system_domain", "true")
    db.map_add("PBD", pbd, "other_config", "storage_driver_domain", domain)
    db.map_add("VM", domain, "other_config", "storage_driver_domain", pbd)
    sr_type = db.row("SR", row["SR"])["type"]
    if not has_driver(call, sr_type):
        raise Failure("SR_UNKNOWN_DRIVER", sr_type)


def run(
    call: Call,
    sr: str,
    host: str,
    command: Callable[[Driver], T],
    *,
    fault: int = GENERAL_FAULT,
    vdi: str = "",
    on_srmaster: bool = False,
    is_srmaster: bool = False,
) -> T:
    """Run a command of the SR's driver on that host.

    ``fault`` is SM's fault for a refusal by xapi; ``on_srmaster`` marks the commands that only the SRmaster
    does. Raises `Unimplemented`, or the failure that the client gets.
    """
    db = call.db
    with contextlib.nullcontext() if vdi or fault == CREATE_FAULT else inside_storage_layer():
        is_srmaster = is_srmaster or sr_hosts.srmaster(call.xapi, sr) == host
        pbd = sr_hosts.pbd_of(db, sr, host)
    if on_srmaster and not is_srmaster:
        # The storage layer forwards the command to the master, which does not know an SR that it has not
        # plugged.
        raise Failure("SR_NOT_ATTACHED", sr)
    row = db.row("SR", sr)
    cls = registry.driver(row["type"])
    if cls is None:
        raise Failure("SR_UNKNOWN_DRIVER", row["type"])
    request = Request(
        world=call.xapi.world,
        host=host_info(call, host),
        sr=SRInfo(
            row["uuid"],
            row["type"],
            row["content_type"],
            row["shared"],
            dict(row["sm_config"]),
            row["name_label"],
            row["virtual_allocation"],
        ),
        device_config=dict(db.row("PBD", pbd)["device_config"]),
        is_srmaster=is_srmaster,
        xapi=Port(call, sr, host),
    )
    call.storage_begins()
    with translated(sr, vdi, fault):
        driver = cls(request)
        driver.load()
        return command(driver)


def probe(
    call: Call, host: str, sr_type: str, config: Mapping[str, str], sm_config: Mapping[str, str]
) -> str:
    """Probe storage that is not an SR yet; SR_UNKNOWN_DRIVER, or the driver's error."""
    cls = registry.driver(sr_type) if sm_of(call, sr_type) else None
    if cls is None:
        raise Failure("SR_UNKNOWN_DRIVER", sr_type)
    request = Request(
        world=call.xapi.world,
        host=host_info(call, host),
        sr=SRInfo(str(uuid.uuid4()), sr_type, "", shared=True, sm_config=dict(sm_config)),
        device_config=dict(config),
        is_srmaster=True,
        xapi=Port(call, None, host),
    )
    with translated("", "", GENERAL_FAULT):
        driver = cls(request)
        driver.load()
        return driver.probe()


def host_info(call: Call, host: str) -> HostInfo:
    row = call.db.row("host", host)
    iqn = row["other_config"].get("iscsi_iqn", "")  # SM reads this key, not the field
    return HostInfo(host, row["uuid"], row["hostname"], iqn, dict(row["other_config"]))


@contextlib.contextmanager
def inside_storage_layer() -> Iterator[None]:
    """Turn a failure in the block into INTERNAL_ERROR, as for xapi's storage layer when it works on an SR.

    Commands on a VDI, and VDI.create, pass the failure on unchanged (storage_smapiv1.ml; trace 02#138 has the
    form).
    """
    try:
        yield
    except Failure as failure:
        params = "; ".join(failure.params)
        raise storage_error("Internal_error", f"Server_error({failure.code}, [ {params} ])") from failure


@contextlib.contextmanager
def translated(sr: str, vdi: str, fault: int) -> Iterator[None]:
    """Turn a driver's exception into a XenAPI failure (sm_exec.ml, exec_xmlrpc; storage_utils.ml)."""
    try:
        yield
    except SMFailure as failure:
        raise from_fault(failure, sr, vdi) from failure
    except XapiRefusal as refusal:
        raise from_fault(SMFailure(fault, str(refusal)), sr, vdi) from refusal
    except StorageError as error:
        raise storage_error(error.name, error.what) from error


def from_fault(failure: SMFailure, sr: str, vdi: str) -> Failure:
    match failure.number:
        case 16:
            return Failure("SR_DEVICE_IN_USE")
        case 24:
            return Failure("VDI_IN_USE")
        case number if number == NOT_IMPLEMENTED:
            return Unimplemented()
        case 39:
            return Failure("SR_NOT_EMPTY")
        case 144:
            return Failure("VDI_MISSING", sr, vdi)
        case number:
            return Failure(f"SR_BACKEND_FAILURE_{number}", "", failure.reason, failure.output)


def storage_error(name: str, what: str) -> Failure:
    """Return a failure between xapi and the driver, which xapi prints and does not translate."""
    return internal_error(f"Storage_error ([S({name});S({what})])")


@contextlib.contextmanager
def holding(call: Call, *key: str) -> Iterator[None]:
    """Run the block while holding a key; wait while another call holds it.

    The storage layer does one thing at a time with an SR on a host (storage_smapiv1_wrapper.ml, with_sr).
    This is separate from the marks on the objects: two PBD.plug of one PBD may run at once (trace 12#10).
    """
    xapi = call.xapi
    if key in xapi.held:
        with call.waiting(STORAGE, *key, lasts=lambda: key in xapi.held):
            while key in xapi.held and not xapi.is_closed:
                xapi.lock.wait()
    xapi.held.add(key)
    try:
        yield
    finally:
        xapi.held.discard(key)
        xapi.lock.notify_all()
