"""One operation's view of the pool: what it has read it remembers, so that nothing is asked twice.

A `View` is made for one attach, detach or the like and thrown away with it, so what it remembers cannot grow old
for long; what must be fresh is read again with `read`. It is also the session that a driver is handed, then
refusing every call that makes or erases data, or touches a VM.

Several objects of several classes are read in one call, with `event.from` and an empty token: xapi answers with
the present record of everything that the filter names (docs/background/xapi.md 4.6).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any, Self

from xenvol.errors import XapiError
from xenvol.secret import Secret
from xenvol.session import Session
from xenvol.session.refs import NULL_REF, HostRef
from xenvol.session.wire import FilterValue

Record = dict[str, Any]

HOST_IS_DOWN = frozenset({"HOST_OFFLINE", "CANNOT_CONTACT_HOST"})
"""Nothing can be plugged or unplugged on a host while it is away (docs/background/xapi.md 2.3)."""

MOVING_VM = frozenset({"pool_migrate", "migrate_send"})
"""The operations of a VM that is moving to another host."""

_A_MOMENT = 0.1  # seconds

AT_ONCE = 2500
"""Objects read in one call: xapi takes no request above 300 KiB (xapi.md 4.1), and each is some 90 bytes."""


class View:
    """Not thread-safe: one operation is one thread's."""

    def __init__(self, session: Session) -> None:
        self._secrets: set[Secret] = set()
        self._session = session.hiding(self._secrets)
        self._records: dict[tuple[str, str], Record] = {}
        self._whole: set[str] = set()  # classes of which every object is remembered
        self._token = ""  # of the last read
        self.joined: set[str] = set()
        """The SRs of ours that another attempt had introduced when this operation came."""
        self.turn: str | None = None
        """What this operation's turn on an SR is marked with (`xenvol.storage.turn`)."""

    @classmethod
    def of(cls, session: Any) -> View:
        """The view that a session is, or a new one over any object with ``.xenapi``."""
        if isinstance(session, View):
            return session
        return cls(session if isinstance(session, Session) else Session(session))

    def restricted(self, driver: str) -> Self:
        """The same view, sharing what is remembered, for a driver: it may not make or erase data, nor touch a VM."""
        driver_view = copy(self)
        driver_view._session = self._session.restricted(driver=driver)
        return driver_view

    @property
    def hidden(self) -> Collection[Secret]:
        """What shows in no error of this operation; `hide` adds to it."""
        return self._secrets

    def hide(self, *secrets: Secret) -> None:
        """Keep secrets of this operation out of every error that it raises."""
        self._secrets.update(secrets)

    @property
    def session(self) -> Session:
        """The session that calls are made in."""
        return self._session

    @property
    def xenapi(self) -> Any:
        return self._session.xenapi

    def call(self, name: str, *params: Any) -> Any:
        """Make a call. Raises XapiError for a no, XapiUnreachable for silence."""
        return self._session.call(name, *params)

    # ---- reading

    def find(
        self,
        cls: str,
        where: Mapping[str, FilterValue | Collection[FilterValue]],
        *,
        either: Mapping[str, FilterValue | Collection[FilterValue]] | None = None,
    ) -> dict[str, Record]:
        """The objects whose fields have these values, by reference; one call, always made."""
        found: dict[str, Record] = self._session.find(cls, where, either=either)
        for ref, record in found.items():
            self.remember(cls, ref, record)
        return found

    def record(self, cls: str, ref: str) -> Record:
        """The record of one object, from memory if it has been read. Raises XapiError HANDLE_INVALID."""
        if (cls, ref) not in self._records:
            self.remember(cls, ref, self.call(f"{cls}.get_record", ref))
        return self._records[cls, ref]

    def read(self, refs: Mapping[str, Iterable[str]], *, whole: Iterable[str] = ()) -> None:
        """Read these objects, and all objects of the classes in `whole`, in one call; what is gone is forgotten.

        `refs` maps a class to references; NULL ones are left out. `record` and `all` then cost nothing.
        """
        wanted = {(cls, ref) for cls, some in refs.items() for ref in some if ref != NULL_REF}
        whole = set(whole)
        names = {cls.lower(): cls for cls in (*refs, *whole)}
        for key in wanted:
            self._records.pop(key, None)
        filters = sorted(whole) + sorted(f"{cls}/{ref}" for cls, ref in wanted if cls not in whole)
        for some in batched(filters, AT_ONCE):
            answer = self.call("event.from", some, "", 0.0)
            for event in answer["events"]:
                if "snapshot" in event and event["class"] in names:
                    self.remember(names[event["class"]], event["ref"], event["snapshot"])
            self._token = answer["token"]
        self._whole |= whole

    def wait(self, refs: Mapping[str, Iterable[str]], seconds: float) -> None:
        """Wait until one of these objects has changed since the last `read`, at most so many seconds.

        Threads that share somebody else's session share one connection: a call that waits there would hold up the very
        one that is waited for.
        """
        if self._session.endpoint is None:
            time.sleep(min(seconds, _A_MOMENT))
        else:
            filters = sorted(f"{cls}/{ref}" for cls, some in refs.items() for ref in some)
            self.call("event.from", filters[:AT_ONCE], self._token, seconds)

    def all(self, cls: str) -> dict[str, Record]:
        """Every object of a small class (pool, SM, host)."""
        if cls not in self._whole:
            for ref, record in self.call(f"{cls}.get_all_records").items():
                self.remember(cls, ref, record)
            self._whole.add(cls)
        return self.remembered(cls)

    def remembered(self, cls: str) -> dict[str, Record]:
        """The objects of a class that are remembered, by reference; no call."""
        return {ref: record for (known, ref), record in self._records.items() if known == cls}

    def known(self, cls: str, ref: str) -> Record | None:
        """The record if it is remembered: after `read`, None means that the object is gone."""
        return self._records.get((cls, ref))

    def remember(self, cls: str, ref: str, record: Record) -> None:
        self._records[cls, ref] = record

    def forget(self, cls: str, ref: str) -> None:
        """For an object that is gone, or no longer as it was."""
        self._records.pop((cls, ref), None)

    # ---- the few facts that every operation needs

    @property
    def pool(self) -> Record:
        (record,) = self.all("pool").values()
        return record

    @property
    def master(self) -> HostRef:
        return HostRef(self.pool["master"])

    @property
    def hosts(self) -> list[HostRef]:
        """The pool's hosts that VMs can start on."""
        return [HostRef(ref) for ref, record in self.all("host").items() if record["enabled"]]

    def read_with_drivers(self, refs: Mapping[str, Iterable[str]], *, whole: Iterable[str] = ()) -> None:
        """As `read`, and with it what `driver_of` needs: the drivers that this session has asked for before, or all."""
        known = list(self._session.sm_refs.values())
        self.read({**refs, "SM": known}, whole=whole if known else [*whole, "SM"])

    def driver_of(self, sr_type: str, *also: str) -> Record | None:
        """The pool's storage driver (SM object) for SRs of this type; None where no host has one.

        There are some two dozen, of 3 KB each, and the reference of one stays what it is for as long as it is
        installed: so the session keeps that, with those of the types in `also`, which are asked for soon.
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
        """The SR types that the pool's hosts have a storage driver for."""
        return {record["type"] for record in self.all("SM").values()}

    def __repr__(self) -> str:
        return f"<View of {self._session!r}: {len(self._records)} objects read>"


def is_gone(error: XapiError, *classes: str) -> bool:
    """Whether xapi says that an object of one of these classes (of any, when none is named) is not there."""
    if error.code == "UUID_INVALID" or error.code == "HANDLE_INVALID":
        return not classes or error.params[0] in classes
    return False


_MEANWHILE = frozenset(
    {
        *("SR_HAS_NO_PBDS", "SR_HAS_PBD", "SR_UUID_EXISTS", "PBD_EXISTS", "MAP_DUPLICATE_KEY"),
        "OTHER_OPERATION_IN_PROGRESS",
    }
)
_MEANWHILE_OF_A_VBD = frozenset(
    {
        *("VDI_IN_USE", "OPERATION_NOT_ALLOWED", "VM_BAD_POWER_STATE"),
        *("DEVICE_ALREADY_ATTACHED", "DEVICE_ALREADY_DETACHED"),
    }
)


def is_overtaken(error: XapiError) -> bool:
    """Whether xapi refused because another process changed something after we had looked: so we look anew."""
    if is_gone(error, "VM", "SR", "PBD", "VDI", "VBD", "secret") or error.code in _MEANWHILE:
        return True
    return error.code in _MEANWHILE_OF_A_VBD and error.call.startswith("VBD.")


@contextmanager
def gone_is_fine(*classes: str) -> Iterator[None]:
    """Let pass that an object of these classes is gone."""
    try:
        yield
    except XapiError as error:
        if not is_gone(error, *classes):
            raise


def batched(items: list[str], size: int) -> list[list[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
