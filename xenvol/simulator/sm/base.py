"""The interface between xapi and a storage driver (SM), in both directions.

A real driver is a script that xapi runs for one command and that calls xapi over its own session. Here it is
an object made for one command: `Driver(request)`, then one method. It keeps nothing. Lasting state is in the
storage `World` (targets, LUNs, files), in the world's per-host state (iSCSI sessions, mounts), or in xapi's
database, which a driver reaches only through `XapiPort`. A driver refuses with `SMFailure`, which xapi's side
turns into SR_BACKEND_FAILURE_<n> (docs/background/xapi.md 2.1).
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
"""The fault of a command that a driver does not have; the caller translates it (docs/background/xapi.md 2.1)."""


class StorageError(Exception):
    """A failure between xapi and the driver: INTERNAL_ERROR ["Storage_error ([S(<name>);S(<what>)])"]."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(name, what)
        self.name = name
        self.what = what


@dataclass(frozen=True, slots=True)
class VDIInfo:
    """A disk as a driver describes it; a field that is None keeps the database's value (or its default)."""

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
    """The uuid of the source."""
    sm_config: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class SRStat:
    """Sizes of an SR, in bytes."""

    physical_size: int
    physical_utilisation: int
    virtual_allocation: int


@dataclass(frozen=True, slots=True)
class HostInfo:
    """The host that runs the driver."""

    ref: str
    uuid: str
    name: str
    """The key of the world's per-host state."""
    iscsi_iqn: str
    other_config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SRInfo:
    """The SR of a command. For a probe, uuid is a fresh one and there is no row."""

    uuid: str
    type: str
    content_type: str
    shared: bool
    sm_config: Mapping[str, str]
    name_label: str = ""
    virtual_allocation: int = 0


class XapiPort(Protocol):
    """What a driver may read and change in xapi. Rows are named by uuid; dicts are copies."""

    def vdis(self) -> list[dict[str, Any]]:
        """Return the records of the VDIs in the request's SR, as get_record returns them, with ``ref`` added."""

    def vdi(self, uuid: str) -> dict[str, Any] | None:
        """Return the record of a VDI in any SR of the pool, or None."""

    def introduce(self, info: VDIInfo) -> None:
        """Add a row (VDI.db_introduce); raises `DuplicateVDI` if any SR of the pool has that uuid."""

    def update(self, info: VDIInfo) -> None:
        """Write the fields of ``info`` that are not None into the row of that uuid."""

    def forget(self, uuid: str) -> None:
        """Delete the row (VDI.db_forget), even if the VDI is plugged; its VBDs dangle."""

    def set_sr(self, **fields: Any) -> None:
        """Set fields of the SR: physical_size, physical_utilisation, virtual_allocation, sm_config..."""

    def sr_other_config(self, add: Mapping[str, str], remove: Iterable[str] = ()) -> None: ...

    def pbd_other_config(self, add: Mapping[str, str], remove: Iterable[str] = ()) -> None: ...

    def pbd_device_config(self, add: Mapping[str, str]) -> None:
        """Write keys into the PBD's device_config (multihomelist, multiSession)."""

    def other_srs(self, sr_type: str | None = None) -> list[dict[str, Any]]:
        """Return the records of all other SRs, of one type or of every type."""

    def host_pbds(self) -> list[dict[str, Any]]:
        """Return the records of the PBDs that the request's host has for other SRs."""

    def secret(self, uuid: str) -> str | None:
        """Return the value of a secret, or None."""

    def message(self, name: str, priority: int, body: str) -> None:
        """Create a message about the SR (message.create)."""

    def sleep(self, seconds: float) -> None:
        """Sleep, if the simulator imitates the times of real storage."""

    def delay(self, seconds: float) -> None:
        """Sleep in any case; other calls run meanwhile."""


class XapiRefusal(Exception):
    """A refusal by xapi of a driver's call; its text is the one that drivers quote (traces sm/20e#17, sm/21#67)."""

    def __init__(self, *description: str) -> None:
        super().__init__(*description)
        self.description = list(description)

    def __str__(self) -> str:
        return str(self.description)


class DuplicateVDI(XapiRefusal):
    """The uuid is already in the database, in this SR or in another."""

    def __init__(self, uuid: str) -> None:
        super().__init__("INTERNAL_ERROR", f'Db_exn.Uniqueness_constraint_violation("VDI", "uuid", "{uuid}")')
        self.uuid = uuid


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that a driver receives for one command."""

    world: World
    host: HostInfo
    sr: SRInfo
    device_config: Mapping[str, str]
    """``*password_secret`` keys as stored; resolve them with ``xapi.secret``."""
    is_srmaster: bool
    xapi: XapiPort


@dataclass(frozen=True, slots=True)
class VDISpec:
    """The properties of a new VDI."""

    virtual_size: int
    type: str = "user"
    name_label: str = ""
    name_description: str = ""
    read_only: bool = False
    sharable: bool = False
    sm_config: Mapping[str, str] = field(default_factory=dict)


class Driver(abc.ABC):
    """One storage driver, for one command.

    Sizes are bytes; a method not overridden is not implemented (38).
    """

    type: ClassVar[str]
    """The SR type; capabilities, labels and configuration come from ``data/sm-drivers.json`` by this name."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.world = request.world
        self.host = request.host
        self.sr = request.sr
        self.config = request.device_config
        self.xapi = request.xapi

    def load(self) -> None:  # noqa: B027  # most drivers check something, not all
        """Check the device_config and the host before every command: 90, 94-97, 101, 102...

        If it refuses, the command counts as not tried: the SR is not marked ``dirty`` and no scan follows a
        failed attach (trace 02#155: 97 leaves no mark; 02#161: 108, from the attach itself, does).
        """

    @abc.abstractmethod
    def attach(self) -> None:
        """Attach the SR to one host (PBD.plug).

        On the SRmaster `after_master_attach` follows, even if this fails.
        """

    @abc.abstractmethod
    def detach(self) -> None:
        """Detach the SR from one host (PBD.unplug)."""

    def after_master_attach(self) -> None:
        """Scan, as SM does after every attach on the SRmaster, even a failed one.

        A scan that fails only becomes a message (docs/background/recordings.md, findings 1 and 12 (storage)).
        A driver that must not scan here, as for ISO libraries, overrides this with nothing. The caller has
        set ``dirty``.
        """
        try:
            self.scan()
        except SMFailure as failure:
            cause = failure.__cause__  # SM names xapi's refusal, before it turns it into a fault
            what = str(cause) if isinstance(cause, XapiRefusal) else failure.reason
            body = f"Failed to scan SR {self.sr.uuid} after attaching, error {what}"
            self.xapi.message("POST_ATTACH_SCAN_FAILED", 2, body)

    def probe(self) -> str:
        """Return the XML of SR.probe."""
        raise SMFailure(NOT_IMPLEMENTED)

    def create(self, size: int) -> None:
        """Format (SR.create). May refuse; sets SR.sm_config through the port."""
        raise SMFailure(NOT_IMPLEMENTED)

    def delete(self) -> None:
        """Erase the SR (SR.destroy); the SR is attached meanwhile."""
        raise SMFailure(NOT_IMPLEMENTED)

    def scan(self) -> list[VDIInfo]:
        """Introduce, update and forget rows through the port, as SM does, and return all disks.

        xapi then compares once more by location (docs/background/xapi.md 2.4, SR.scan); the driver sets the
        SR's sizes.
        """
        raise SMFailure(NOT_IMPLEMENTED)

    def update(self) -> None:  # noqa: B027  # in SM a missing update is no error
        """Refresh the SR's sizes (SR.update); nothing to do for a driver that keeps none (sm/SR.py, update)."""

    def vdi_create(self, spec: VDISpec) -> VDIInfo:
        """Make the data *and* introduce the row; the caller sets xapi's own fields (other_config, tags...)."""
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_delete(self, uuid: str) -> None:
        """Erase the data; the caller deletes the row."""
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_introduce(self, uuid: str, spec: VDISpec, location: str) -> VDIInfo:
        """Introduce the disk that location or sm_config names; its uuid may differ from the requested one.

        The row is added, or updated if this SR has it already.
        """
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_resize(self, uuid: str, size: int) -> VDIInfo:
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_snapshot(self, uuid: str) -> VDIInfo:
        """Return the new disk, with its row; xapi decides read_only (trace sm/21#52: files and LVM do not set it)."""
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_clone(self, uuid: str) -> VDIInfo:
        """Return the new, writable disk, with its row."""
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_attach(self, uuid: str, read_write: bool) -> None:
        """Prepare a disk for use on the host; fault 46 if it is missing."""
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_detach(self, uuid: str) -> None:
        raise SMFailure(NOT_IMPLEMENTED)

    def vdi_file(self, uuid: str) -> Path:
        """Return the (sparse) file that holds the disk's bytes as the guest sees them, ``virtual_size`` long."""
        raise SMFailure(46, f"VDI {uuid} not found")

    def vdi_room(self, uuid: str) -> int | None:
        """Return the bytes that the disk may still allocate as it is written; None if all its space is reserved."""
        return None
