"""What one operation has read of the pool. It remembers each record, so that it asks for none twice.

A `View` serves one attach, one detach or the like, and is dropped with it, so its records are never stale for long.
`read` reads objects again. A driver gets a `View` as its session; that one refuses every call that makes or erases
data, or touches a VM.

`read` gets objects of several classes in one call, `event.from` with an empty token: xapi answers with the present
record of each object that the filter names (docs/background/xapi.md 4.6).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any, Self, TypeVar

from xenvol.errors import XapiError
from xenvol.secret import Secret
from xenvol.session import Session
from xenvol.session.refs import NULL_REF, HostRef
from xenvol.session.wire import FilterValue

Record = dict[str, Any]
Ref = TypeVar("Ref", bound=str)

HOST_IS_DOWN = frozenset({"HOST_OFFLINE", "CANNOT_CONTACT_HOST"})
"""xapi refuses to plug and unplug on a host that is down (docs/background/xapi.md 2.3)."""

MOVING_VM = frozenset({"pool_migrate", "migrate_send"})
"""The operations of a VM that is moving to another host."""

_POLL_INTERVAL = 0.1  # seconds

MAX_PER_READ = 2500
"""Objects read in one call: xapi takes no request above 300 KiB (xapi.md 4.1), and each is some 90 bytes."""


class View:
    """The records that one operation has read. Not thread-safe: one operation belongs to one thread."""

    def __init__(self, session: Session) -> None:
        self._secrets: set[Secret] = set()
        self._session = session.hiding(self._secrets)
        self._records: dict[tuple[str, str], Record] = {}
        self._whole: set[str] = set()  # classes of which every object is remembered
        self._token = ""  # of the last read
        self.joined: set[str] = set()
        """The SRs that another attempt of xenvol had introduced before this operation used them."""
        self.turn: str | None = None
        """The turn mark of this operation on an SR (`xenvol.storage.turn`), or None."""

    @classmethod
    def of(cls, session: Any) -> View:
        """Return the session if it is a view, else a new view over any object with ``.xenapi``."""
        if isinstance(session, View):
            return session
        return cls(session if isinstance(session, Session) else Session(session))

    def restricted(self, driver: str) -> Self:
        """Return a view for a driver, with the same records. It refuses to make or erase data, and to touch a VM."""
        driver_view = copy(self)
        driver_view._session = self._session.restricted(driver=driver)
        return driver_view

    @property
    def hidden(self) -> Collection[Secret]:
        """The secrets that no error of this operation shows; `hide` adds to them."""
        return self._secrets

    def hide(self, *secrets: Secret) -> None:
        """Keep secrets of this operation out of every error that it raises."""
        self._secrets.update(secrets)

    @property
    def session(self) -> Session:
        """The session in which this view makes its calls."""
        return self._session

    @property
    def xenapi(self) -> Any:
        return self._session.xenapi

    def call(self, name: str, *params: Any) -> Any:
        """Make a call. Raises XapiError if xapi refuses, XapiUnreachable if no answer comes."""
        return self._session.call(name, *params)

    # ---- reading

    def find(
        self,
        cls: str,
        where: Mapping[str, FilterValue | Collection[FilterValue]],
        *,
        either: Mapping[str, FilterValue | Collection[FilterValue]] | None = None,
    ) -> dict[str, Record]:
        """Return the objects whose fields have these values, by reference; always one call."""
        found: dict[str, Record] = self._session.find(cls, where, either=either)
        for ref, record in found.items():
            self.remember(cls, ref, record)
        return found

    def record(self, cls: str, ref: str) -> Record:
        """Return the record of an object, read only if it is not remembered. Raises XapiError HANDLE_INVALID."""
        if (cls, ref) not in self._records:
            self.remember(cls, ref, self.call(f"{cls}.get_record", ref))
        return self._records[cls, ref]

    def read(self, refs: Mapping[str, Iterable[str]], *, whole: Iterable[str] = ()) -> None:
        """Read these objects, and all objects of the classes in `whole`, in one call. Forget those that are gone.

        `refs` maps a class to references; NULL references are skipped. `record` and `all` then make no call.
        """
        wanted = {(cls, ref) for cls, some in refs.items() for ref in some if ref != NULL_REF}
        whole = set(whole)
        names = {cls.lower(): cls for cls in (*refs, *whole)}
        for key in wanted:
            self._records.pop(key, None)
        filters = sorted(whole) + sorted(f"{cls}/{ref}" for cls, ref in wanted if cls not in whole)
        for some in batched(filters, MAX_PER_READ):
            answer = self.call("event.from", some, "", 0.0)
            for event in answer["events"]:
                if "snapshot" in event and event["class"] in names:
                    self.remember(names[event["class"]], event["ref"], event["snapshot"])
            self._token = answer["token"]
        self._whole |= whole

    def wait(self, refs: Mapping[str, Iterable[str]], seconds: float) -> None:
        """Wait until one of these objects changes after the last `read`, at most so many seconds.

        Over a session that the caller logged in, only sleep for a moment: all threads share its one connection, so a
        waiting call would block the call that it waits for.
        """
        if self._session.endpoint is None:
            time.sleep(min(seconds, _POLL_INTERVAL))
        else:
            filters = sorted(f"{cls}/{ref}" for cls, some in refs.items() for ref in some)
            self.call("event.from", filters[:MAX_PER_READ], self._token, seconds)

    def all(self, cls: str) -> dict[str, Record]:
        """Return every object of a small class (pool, SM, host), by reference; at most one call."""
        if cls not in self._whole:
            for ref, record in self.call(f"{cls}.get_all_records").items():
                self.remember(cls, ref, record)
            self._whole.add(cls)
        return self.remembered(cls)

    def has_all(self, cls: str) -> bool:
        """Whether every object of a class has been read; no call."""
        return cls in self._whole

    def remembered(self, cls: str) -> dict[str, Record]:
        """Return the remembered objects of a class, by reference; no call."""
        return {ref: record for (known, ref), record in self._records.items() if known == cls}

    def known(self, cls: str, ref: str) -> Record | None:
        """Return the remembered record, or None; after `read`, None means that the object is gone."""
        return self._records.get((cls, ref))

    def known_of(self, cls: str, refs: Iterable[Ref]) -> dict[Ref, Record]:
        """Return the remembered records of these objects, by reference, in the order of `refs`; no call."""
        return {ref: self._records[cls, ref] for ref in refs if (cls, ref) in self._records}

    def remember(self, cls: str, ref: str, record: Record) -> None:
        self._records[cls, ref] = record

    def forget(self, cls: str, ref: str) -> None:
        """Forget the record of an object that is gone or has changed."""
        self._records.pop((cls, ref), None)

    # ---- facts that every operation needs

    @property
    def pool(self) -> Record:
        (record,) = self.all("pool").values()
        return record

    @property
    def master(self) -> HostRef:
        return HostRef(self.pool["master"])

    @property
    def hosts(self) -> list[HostRef]:
        """The hosts on which VMs can start."""
        return [HostRef(ref) for ref, record in self.all("host").items() if record["enabled"]]

    def read_with_drivers(self, refs: Mapping[str, Iterable[str]], *, whole: Iterable[str] = ()) -> None:
        """Do what `read` does, and read the SM objects for `driver_of`: those that this session knows, else all."""
        known = list(self._session.sm_refs.values())
        self.read({**refs, "SM": known}, whole=whole if known else [*whole, "SM"])

    def driver_of(self, sr_type: str, *also: str) -> Record | None:
        """Return the pool's storage driver (SM object) for SRs of this type, or None if no host has one.

        A pool has some two dozen SM objects, of 3 KB each. The reference of one stays valid as long as the driver is
        installed. So the session keeps the references, also those of the types in `also`, which the caller needs soon.
        """
        if sr_type not in (found := self._drivers()) and "SM" not in self._whole:
            self.find("SM", {"type": [sr_type, *also]})
            found = self._drivers()
        for kind in {sr_type, *also} & set(found):
            self._session.sm_refs[kind], _ = found[kind]
        return found[sr_type][1] if sr_type in found else None

    def _drivers(self) -> dict[str, tuple[str, Record]]:
        return {record["type"]: (ref, record) for ref, record in self.remembered("SM").items()}

    @property
    def sr_types(self) -> set[str]:
        """The SR types for which the pool has a storage driver."""
        return {record["type"] for record in self.all("SM").values()}

    def __repr__(self) -> str:
        return f"<View of {self._session!r}: {len(self._records)} objects read>"


def is_gone(error: XapiError, *classes: str) -> bool:
    """Whether xapi says that an object of one of these classes (without a class: any object) is gone."""
    if error.code == "UUID_INVALID" or error.code == "HANDLE_INVALID":
        return not classes or error.params[0] in classes
    return False


_CONFLICTS = frozenset(
    {
        *("SR_HAS_NO_PBDS", "SR_HAS_PBD", "SR_UUID_EXISTS", "PBD_EXISTS", "MAP_DUPLICATE_KEY"),
        "OTHER_OPERATION_IN_PROGRESS",
    }
)
_VBD_CONFLICTS = frozenset(
    {
        *("VDI_IN_USE", "OPERATION_NOT_ALLOWED", "VM_BAD_POWER_STATE"),
        *("DEVICE_ALREADY_ATTACHED", "DEVICE_ALREADY_DETACHED"),
    }
)


def is_overtaken(error: XapiError) -> bool:
    """Whether xapi refused because another process changed an object after xenvol had read it; then read again."""
    if is_gone(error, "VM", "SR", "PBD", "VDI", "VBD", "secret") or error.code in _CONFLICTS:
        return True
    return error.code in _VBD_CONFLICTS and error.call.startswith("VBD.")


@contextmanager
def gone_is_fine(*classes: str) -> Iterator[None]:
    """Ignore the error that an object of these classes is gone."""
    try:
        yield
    except XapiError as error:
        if not is_gone(error, *classes):
            raise


def batched(items: list[str], size: int) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
