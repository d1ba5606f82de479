"""The contract of a driver: it makes the volume of a connection_info a VDI that a VM can be given.

A driver is a class behind an entry point of the group ``xenvol.drivers``. The name of the entry point is the
driver_volume_type that the driver serves. One object serves one connect or one disconnect, then is thrown away. It gets
the connection_info's ``data``, read-only, and a session. It touches no VM and no VBD. It can neither make nor erase
data: the session refuses SR.create, SR.destroy, VDI.create and VDI.destroy (`xenvol.errors.ForbiddenCall`).
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
    """Any object with the XenAPI client's ``xenapi``: the client's Session, xenvol's, a mock."""

    @property
    def xenapi(self) -> Any: ...


class VolumeDriver(abc.ABC):
    """The methods of a driver. They are the contract; a driver need not be a subclass."""

    connection_data_schema: ClassVar[type | None] = None
    """The keys that the driver reads, as a class with annotations, best a `msgspec.Struct`. ``xenvol drivers`` shows
    them, also as JSON Schema. None: the driver does not tell its keys."""

    def __init__(self, session: SessionLike, *, hosts: Iterable[HostRef] | None = None) -> None:
        """Store the arguments; make no call.

        `hosts` are the hosts on which the VDI must be reachable: the one that a running VM is on, or all on which a
        halted VM could start. None is every host of the pool.
        """
        self.session = session
        self.hosts: tuple[HostRef, ...] | None = None if hosts is None else tuple(hosts)
        self.undo = Undo(hidden=session.hidden if isinstance(session, View) else ())
        self._read: tuple[Mapping[str, object], object] | None = None

    def read_once(
        self, parse: Callable[[Mapping[str, object]], V], connection_data: Mapping[str, object]
    ) -> V:
        """Return what `parse` makes of the data. Parses once, and again only for another mapping."""
        if self._read is None or self._read[0] is not connection_data:
            self._read = connection_data, parse(connection_data)
        return cast("V", self._read[1])

    @abc.abstractmethod
    def connect_volume(self, connection_data: Mapping[str, object]) -> VDIRef:
        """Make the volume a VDI, with its SR plugged on the hosts that need it, and return its reference.

        Idempotent: finds a volume that is connected already. Records every call that changes the pool in `self.undo`,
        on the next line. Compares the VDI with all that the data proves before it returns.

        Raises InvalidConnectionInfo (a key is missing or wrong; before any call), UnsupportedSRType or HostNotReady
        (a host lacks something; before any change), VolumeNotFound (the storage answers and has no such volume),
        WrongVolume (it shows another volume), XapiError (xapi refuses), XapiUnreachable (no answer). After any of them
        the caller calls `rollback`.
        """

    @abc.abstractmethod
    def disconnect_volume(self, connection_data: Mapping[str, object]) -> None:
        """Remove the volume from the pool, by the data alone: another object or process may have connected it.

        Idempotent. Spares what is in use (another LUN of the same target, a disk of another VM) and an SR that xenvol
        did not introduce.

        Raises InvalidConnectionInfo, XapiError, XapiUnreachable. Then the same call again completes it.
        """

    def rollback(self, connection_data: Mapping[str, object]) -> None:
        """Undo what this object's `connect_volume` did, by its own record, and nothing else.

        The caller calls it after a connect that failed, and after a connect that succeeded if a later step fails.
        Idempotent. Raises nothing: what cannot be undone is logged, and becomes a note on the error being handled.
        """
        self.undo.unwind(sys.exception())

    def extend_volume(self, connection_data: Mapping[str, object]) -> int:
        """Make xapi see that the volume grew; return its new size in bytes. Idempotent. Optional.

        Raises ExtendNotSupported if the protocol or the storage driver cannot do it, InvalidConnectionInfo,
        VolumeNotFound, XapiError, XapiUnreachable.
        """
        raise ExtendNotSupported(type(self).__name__)

    def volume_key(self, connection_data: Mapping[str, object]) -> str:
        """Return a text that tells this volume's disk from every other, whatever the spelling of the data. No call.

        Optional. A detach finds the disk by it if the service gives no volume id. An attach sees by it that a volume
        has moved. A disk with several places has a line for each. The default is a digest of the data without secrets
        and without the keys of the envelope.
        """
        return digest_of(connection_data)

    def identify(self, connection_data: Mapping[str, object]) -> Identity:
        """Return what the data says about the disk: its places, and its proofs. Makes no call.

        Optional. The default has the places of `volume_key`, and no proof.
        """
        return Identity(places=frozenset(self.volume_key(connection_data).split("\n")))

    def find_volume(
        self, connection_data: Mapping[str, object], among: Mapping[VDIRef, Mapping[str, Any]]
    ) -> set[VDIRef]:
        """Return which of these VDIs of a VM are this volume, where `identify` cannot tell. Changes nothing.

        Optional. A detach asks it about disks without a mark of xenvol's or with the mark of another volume. It must
        leave out any disk of which it is not certain.
        """
        return set()

    def ways(self, connection_data: Mapping[str, object]) -> list[Mapping[str, str | Secret]]:
        """Return the device_configs by which a host may reach the volume, in the order to try. Makes no call.

        Optional. `prepare_migration` creates the destination's PBD from them, or else from the PBD of another host.
        """
        return []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.undo!r}>"


def digest_of(connection_data: Mapping[str, object]) -> str:
    """Return a digest of the data without secrets and envelope keys. A number and its text give the same digest."""
    items = sorted(
        (str(key), str(value)) for key, value in connection_data.items() if key not in ENVELOPE_KEYS
    )
    return str(uuid.uuid5(uuid.NAMESPACE_URL, repr(items)))
