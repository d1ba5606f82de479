"""What xapi asks of a storage driver (SM), and the few things that a driver may do to xapi's database.

A real driver is a script that xapi runs for one command and that calls xapi back over its own session. Here
it is an object made for one command: `Driver(request)`, then one method. It keeps nothing: what outlasts a
command lives in the storage `World` (targets, LUNs, files), in the world's per-host state (iSCSI sessions,
mounts), or in xapi's database, which a driver reaches through `XapiPort` only. It refuses with `SMFailure`;
xapi's side turns that into SR_BACKEND_FAILURE_<n> (facts/xapi.md 2.1).
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from xenvol.simulator.sm.smfailure import SMFailure as SMFailure

if TYPE_CHECKING:
    from pathlib import Path

    from xenvol.simulator.sm.world import World


NOT_IMPLEMENTED = 38
"""The fault of a command that a driver does not have; the caller translates it (facts/xapi.md 2.1)."""


class StorageError(Exception):
    """A failure between xapi and the driver: INTERNAL_ERROR ["Storage_error ([S(<name>);S(<what>)])"]."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(name, what)
        self.name = name
        self.what = what


@dataclass(frozen=True, slots=True)
class VDIInfo:
    """A disk as a driver describes it; what is None is left as the database has it (or as its default)."""

    uuid: str
    location: str
    virtual_size: int
    physical_utilisation: int
    managed: bool = True
    read_only: bool = False
    sharable: bool | None = None
    name_label: str | None = None
    name_description: str | None = None
    type: str | None = None
    is_a_snapshot: bool | None = None
    snapshot_of: str | None = None
    """A uuid."""
    sm_config: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class SRStat:
    """Bytes."""

    physical_size: int
    physical_utilisation: int
    virtual_allocation: int


@dataclass(frozen=True, slots=True)
class HostInfo:
    """The host that runs the driver."""

    ref: str
    uuid: str
    name: str
    """Key of the world's per-host state."""
    iscsi_iqn: str
    other_config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SRInfo:
    """The SR that a command is about. For a probe, uuid is a fresh one and there is no row."""

    uuid: str
    type: str
    content_type: str
    shared: bool
    sm_config: Mapping[str, str]
    name_label: str = ""
    virtual_allocation: int = 0


class XapiPort(Protocol):
    """What a driver may ask of xapi and change in it. Rows are named by uuid; dicts are copies."""

    def vdis(self) -> list[dict[str, Any]]:
        """The records of the VDIs in the request's SR, as get_record has them, with ``ref`` added."""

    def vdi(self, uuid: str) -> dict[str, Any] | None:
        """A VDI of any SR of the pool."""

    def introduce(self, info: VDIInfo) -> None:
        """VDI.db_introduce: a new row; raises `DuplicateVDI` where any SR of the pool has that uuid."""

    def update(self, info: VDIInfo) -> None:
        """Write what is not None of ``info`` into the row of that uuid."""

    def forget(self, uuid: str) -> None:
        """VDI.db_forget: the row goes, plugged or not; its VBDs dangle."""

    def set_sr(self, **fields: Any) -> None:
        """Set fields of the SR: physical_size, physical_utilisation, virtual_allocation, sm_config..."""

    def sr_other_config(self, add: Mapping[str, str], remove: Iterable[str] = ()) -> None: ...

    def pbd_other_config(self, add: Mapping[str, str], remove: Iterable[str] = ()) -> None: ...

    def pbd_device_config(self, add: Mapping[str, str]) -> None:
        """Write keys into the PBD's device_config (multihomelist, multiSession)."""

    def other_srs(self, sr_type: str | None = None) -> list[dict[str, Any]]:
        """The records of all SRs of a type, or of every type, but this one."""

    def host_pbds(self) -> list[dict[str, Any]]:
        """The records of the PBDs that the request's host has for other SRs."""

    def secret(self, uuid: str) -> str | None:
        """The value of a secret."""

    def message(self, name: str, priority: int, body: str) -> None:
        """message.create about the SR."""

    def sleep(self, seconds: float) -> None:
        """Take real time, if the simulator is told to take as long as real storage."""

    def delay(self, seconds: float) -> None:
        """Take so much real time in any case; other calls run meanwhile."""


class XapiRefusal(Exception):
    """xapi said no to a driver; prints as a driver quotes it (traces sm/20e#17, sm/21#67)."""

    def __init__(self, *description: str) -> None:
        super().__init__(*description)
        self.description = list(description)

    def __str__(self) -> str:
        return str(self.description)


class DuplicateVDI(XapiRefusal):
    """The uuid is in the database already, in whichever SR."""

    def __init__(self, uuid: str) -> None:
        super().__init__("INTERNAL_ERROR", f'Db_exn.Uniqueness_constraint_violation("VDI", "uuid", "{uuid}")')
        self.uuid = uuid


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that a driver is told for one command."""

    world: World
    host: HostInfo
    sr: SRInfo
    device_config: Mapping[str, str]
    """``*password_secret`` keys as stored; resolve them with ``xapi.secret``."""
    is_srmaster: bool
    xapi: XapiPort


@dataclass(frozen=True, slots=True)
class VDISpec:
    """What a new VDI shall be."""

    virtual_size: int
    type: str = "user"
    name_label: str = ""
    name_description: str = ""
    read_only: bool = False
    sharable: bool = False
    sm_config: Mapping[str, str] = field(default_factory=dict)


class Driver(abc.ABC):
    """One storage driver, for one command. Sizes are bytes; a method not overridden is not implemented (38)."""

    type: ClassVar[str]
    """The SR type; capabilities, labels and configuration come from ``data/sm-drivers.json`` by this name."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.world = request.world
        self.host = request.host
        self.sr = request.sr
        self.config = request.device_config
        self.xapi = request.xapi

    def load(self) -> None:  # noqa: B027  # most drivers demand something, not all
        """Runs before every command and looks at nothing but the device_config and the host: 90, 94-97, 101, 102...

        When it refuses, the command was never tried: the SR is not marked ``dirty`` and no scan follows a
        failed attach (trace 02#155: 97 leaves no mark; 02#161: 108, from the attach itself, does).
        """

    @abc.abstractmethod
    def attach(self) -> None:
        """PBD.plug on one host. On the SRmaster `after_master_attach` follows, even when this has failed."""

    @abc.abstractmethod
    def detach(self) -> None:
        """PBD.unplug on one host."""

    def after_master_attach(self) -> None:
        """What SM does after every attach on the SRmaster, also a failed one: it scans.

        A scan that fails becomes a message and no more (facts/sm-truth.md findings 1 and 12); a driver that
        shall not scan here, as ISO libraries, overrides this with nothing. The caller has set ``dirty``.
        """
        try:
            self.scan()
        except SMFailure as failure:
            cause = failure.__cause__  # SM names what xapi refused, before it makes a fault of it
            what = str(cause) if isinstance(cause, XapiRefusal) else failure.reason
            body = f"Failed to scan SR {self.sr.uuid} after attaching, error {what}"
            self.xapi.message("POST_ATTACH_SCAN_FAILED", 2, body)

    def probe(self) -> str:
        """The XML of SR.probe."""
        raise SMFailure(NOT_IMPLEMENTED)

    def create(self, size: int) -> None:
        """SR.create: format. May refuse; sets SR.sm_config through the port."""
        raise SMFailure(NOT_IMPLEMENTED)

    def delete(self) -> None:
        """SR.destroy: erase; the SR is attached when it is asked."""
        raise SMFailure(NOT_IMPLEMENTED)

    def scan(self) -> list[VDIInfo]:
        """Introduce, update and forget rows through the port, as SM does, and return all that there is.

        xapi then compares once more by location (facts/xapi.md, SR.scan); sizes of the SR are set by the
        driver.
        """
        raise SMFailure(NOT_IMPLEMENTED)

    def update(self) -> None:  # noqa: B027  # not implementing it is no error in SM
        """SR.update: refresh the SR's sizes. A driver that keeps none has nothing to do (sm/SR.py, update)."""

    def vdi_create(self, spec: VDISpec) -> VDIInfo:
        """Makes the data *and* introduces the row; the caller sets what belongs to xapi (other_config, tags...)."""
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_delete(self, uuid: str) -> None:
        """Erases the data; the caller deletes the row."""
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_introduce(self, uuid: str, spec: VDISpec, location: str) -> VDIInfo:
        """The disk that location or sm_config names; its uuid may be another one than was asked for.

        The row is introduced, or updated where there was one already in this SR.
        """
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_resize(self, uuid: str, size: int) -> VDIInfo:
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_snapshot(self, uuid: str) -> VDIInfo:
        """The new disk, row introduced; read-only is for xapi to say (trace sm/21#52: files and LVM make none so)."""
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_clone(self, uuid: str) -> VDIInfo:
        """The new, writable disk; row introduced."""
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_attach(self, uuid: str, read_write: bool) -> None:
        """A disk is about to be used on the host. Refuses with 46 when it is not there."""
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_detach(self, uuid: str) -> None:
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_file(self, uuid: str) -> Path:
        """The (sparse) file that holds the disk's bytes as the guest sees them, ``virtual_size`` long."""
        raise SMFailure(46, f"VDI {uuid} not found")

    def vdi_room(self, uuid: str) -> int | None:
        """Bytes of its storage that the disk may still take as it is written to; None where they are its own."""
        return None
