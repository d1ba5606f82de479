"""The contract of a driver: a volume, told by a connection_info, becomes a VDI that a VM could be given.

A driver is a class behind an entry point of the group ``xenvol.drivers``, whose name is the driver_volume_type that
it serves. One object serves one connect or one disconnect, then is thrown away. It sees the connection_info's
``data``, read-only, and a session; it touches no VM and no VBD, and it can neither make nor erase data: the session
refuses SR.create, SR.destroy, VDI.create and VDI.destroy (`xenvol.errors.ForbiddenCall`).
"""

import abc
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar, cast, runtime_checkable

from xenvol.connection_data.connection_info import ENVELOPE_KEYS
from xenvol.connection_data.identity import Identity
from xenvol.errors import ExtendNotSupported
from xenvol.pool.undo import Undo
from xenvol.pool.view import View
from xenvol.secret import Secret
from xenvol.session.refs import HostRef, VDIRef

V = TypeVar("V")


@runtime_checkable
class SessionLike(Protocol):
    """Anything with the XenAPI client's ``xenapi``: its Session, ours, a mock."""

    @property
    def xenapi(self) -> Any: ...


class VolumeDriver(abc.ABC):
    """What a driver must do; subclassing is a convenience, the methods are the contract."""

    connection_data_schema: ClassVar[type | None] = None
    """The keys that the driver reads, as a class with annotations (a `msgspec.Struct`, best): shown by
    ``xenvol drivers``, and to whoever asks for JSON Schema. None: the driver does not say."""

    def __init__(self, session: SessionLike, *, hosts: Iterable[HostRef] | None = None) -> None:
        """Store; make no call.

        `hosts` are those on which the VDI must be reachable: of a running VM, the one that it runs on; else every
        host that it could start on. None: every host of the pool.
        """
        self.session = session
        self.hosts: tuple[HostRef, ...] | None = None if hosts is None else tuple(hosts)
        self.undo = Undo(hidden=session.hidden if isinstance(session, View) else ())
        self._read: tuple[Mapping[str, object], object] | None = None

    def read_once(
        self, parse: Callable[[Mapping[str, object]], V], connection_data: Mapping[str, object]
    ) -> V:
        """What `parse` makes of the data: parsed at the first time, remembered as long as the data is the same."""
        if self._read is None or self._read[0] is not connection_data:
            self._read = connection_data, parse(connection_data)
        return cast("V", self._read[1])

    @abc.abstractmethod
    def connect_volume(self, connection_data: Mapping[str, object]) -> VDIRef:
        """Make the volume a VDI, plugged on the hosts that need it, and return its reference.

        Idempotent: a volume that is connected already is found, not connected twice. Every call that changes the
        hypervisor is recorded in `self.undo` on the next line. Before returning, compare the VDI with whatever the
        data can prove.

        Raises InvalidConnectionInfo (a key is missing or wrong; before any call), UnsupportedSRType or HostNotReady
        (a host cannot; before anything is made), VolumeNotFound (the storage answers and has no such volume),
        WrongVolume (it is another one), XapiError (refused), XapiUnreachable (no answer). After any of them the
        caller calls `rollback`.
        """

    @abc.abstractmethod
    def disconnect_volume(self, connection_data: Mapping[str, object]) -> None:
        """Make the volume gone from the hypervisor, whoever connected it, from the data alone.

        Idempotent: what is gone already is fine. Spares what others use: another LUN of the same target, another
        VM, and an SR that was there before xenvol.

        Raises InvalidConnectionInfo, XapiError, XapiUnreachable; then the same call again goes on where it ended.
        """

    def rollback(self, connection_data: Mapping[str, object]) -> None:
        """Take back what this object's `connect_volume` did, from its own record, and nothing else.

        Called after a connect that failed, and after one that succeeded when a later step failed. Idempotent.
        Raises nothing: what cannot be taken back is logged, and noted on the error that is being handled.
        """
        self.undo.unwind(sys.exception())

    def extend_volume(self, connection_data: Mapping[str, object]) -> int:
        """Make xapi see that the volume grew; return its new size in bytes. Idempotent, and optional.

        Raises ExtendNotSupported where the protocol or the storage driver cannot, InvalidConnectionInfo,
        VolumeNotFound, XapiError, XapiUnreachable.
        """
        raise ExtendNotSupported(type(self).__name__)

    def volume_key(self, connection_data: Mapping[str, object]) -> str:
        """What tells this volume's disk from every other, from the data alone, in whichever spelling; makes no call.

        Optional. A detach finds the disk by it where the service gives no volume id, and an attach notices by it
        that a volume has moved. A disk with several places has a line for each. The same, here, for the same data but
        for secrets and for what is no place.
        """
        return digest_of(connection_data)

    def identify(self, connection_data: Mapping[str, object]) -> Identity:
        """What the data says of the disk: its places, and what can be proved of it. Makes no call.

        Optional: the places of `volume_key`, and no proof, here.
        """
        return Identity(places=frozenset(self.volume_key(connection_data).split("\n")))

    def find_volume(
        self, connection_data: Mapping[str, object], among: Mapping[VDIRef, Mapping[str, Any]]
    ) -> set[VDIRef]:
        """Which of these disks (records of VDIs that a VM shows) are this volume, where `identify` cannot tell.

        Optional: a detach asks it for disks that have no mark of xenvol's, or the mark of another volume. It must
        never name a disk of which it is not certain, and changes nothing.
        """
        return set()

    def ways(self, connection_data: Mapping[str, object]) -> list[Mapping[str, str | Secret]]:
        """The device_configs by which a host may reach the volume, in the order to try. Makes no call.

        Optional: `prepare_migration` makes the destination's PBD of them; without any, of another host's.
        """
        return []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.undo!r}>"


def digest_of(connection_data: Mapping[str, object]) -> str:
    """The same for the same data, but for secrets and for what is no place; numbers may be strings."""
    told = sorted(
        (str(key), str(value)) for key, value in connection_data.items() if key not in ENVELOPE_KEYS
    )
    return str(uuid.uuid5(uuid.NAMESPACE_URL, repr(told)))
