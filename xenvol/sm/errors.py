"""The errors of the Storage Manager, sorted by whose fault they are. The base classes are those of `xenvol.errors`.

* `RequestError`: change the flavor, backend or volume that was named, or what was asked of it.
* `StorageError`: no backend can do it, or a device is not what it should be.
* `DatabaseError`: the Storage Manager's tables are missing, not reachable, or of another release.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping

from xenvol.amounts import exact_size
from xenvol.errors import HypervisorError, RequestError, StorageError, UnsupportedSRType, XenVolError

_SHOWN = 10  # items of a list in a message; the attribute has all


class UnknownFlavor(RequestError):
    def __init__(self, label: str, *, known: Collection[str]) -> None:
        self.label = label
        self.known = list(known)
        super().__init__(
            f"no flavor has the label {label!r}; known: {_listed(self.known) or 'none'}; "
            "make one with `xenvol sm flavor_create`"
        )


class FlavorExists(RequestError):
    def __init__(self, label: str) -> None:
        super().__init__(f"a flavor with the label {label!r} exists already: use it, or delete it first")
        self.label = label


class FlavorInUse(RequestError):
    """The flavor has backends; `backends` lists their ids."""

    def __init__(self, label: str, *, backends: Iterable[int]) -> None:
        self.label = label
        self.backends = list(backends)
        super().__init__(
            f"flavor {label!r} has backends: {_listed(list(map(str, self.backends)))}; remove them first"
        )


class InvalidSetting(RequestError):
    """A setting of a flavor, or a value on the command line, is not allowed."""

    def __init__(self, name: str, value: object, *, accepted: str) -> None:
        super().__init__(f"{name} {value!r} is not allowed; accepted: {accepted}")
        self.name = name
        self.accepted = accepted


class InvalidConfig(RequestError):
    """A key=value parameter of a backend is wrong; `key` says which."""

    def __init__(self, sr_type: str, key: str, *, problem: str, remedy: str) -> None:
        super().__init__(f"backend of type {sr_type}: key {key!r} {problem}; {remedy}")
        self.sr_type = sr_type
        self.key = key


class UnknownBackend(RequestError):
    def __init__(self, backend_id: int) -> None:
        super().__init__(f"no backend has the id {backend_id}; `xenvol sm backend_list` lists them")
        self.backend_id = backend_id


class BackendExists(RequestError):
    """The same place, or the same SR, is a backend already."""

    def __init__(self, place: str, *, backend_id: int) -> None:
        super().__init__(
            f"{place} is backend {backend_id} already: use that one, since two would count its space twice"
        )
        self.place = place
        self.backend_id = backend_id


class BackendInUse(RequestError):
    """The backend has volumes; `volumes` lists the first of them, `count` is how many there are."""

    def __init__(self, backend_id: int, *, volumes: Iterable[str], count: int) -> None:
        self.backend_id = backend_id
        self.volumes = list(volumes)
        self.count = count
        more = f" and {count - len(self.volumes)} more" if count > len(self.volumes) else ""
        super().__init__(
            f"backend {backend_id} has volumes: {', '.join(self.volumes)}{more}; delete or unmanage them first"
        )


class DeviceNotBlank(StorageError):
    """Making the SR would erase a device that no caller has allowed to erase. Nothing was changed."""

    def __init__(self, device: str, *, found: Iterable[str]) -> None:
        self.device = device
        self.found = list(found)
        if self.found:
            what = f"device {device} holds SR {_listed(self.found)}"
            use = f"to use it, give sr_uuid={self.found[0]}; to erase it"
        else:
            what = (
                f"making an SR formats device {device}, and XenAPI cannot tell whether it holds a file system"
            )
            use = "to format it, and lose what is on it"
        super().__init__(f"{what}; {use}, name it: --format {device}")


class IncompleteConfig(StorageError):
    """A parameter is missing, and the storage listed the values for it; `choices` has them, as key=value."""

    def __init__(self, sr_type: str, key: str, *, choices: Iterable[str]) -> None:
        self.sr_type = sr_type
        self.key = key
        self.choices = list(choices)
        super().__init__(
            f"backend of type {sr_type}: key {key!r} is missing, or names nothing that exists; "
            f"the storage offers: {_listed(self.choices) or 'nothing'}"
        )


class BackendNotReady(StorageError):
    """The backend's SR is not made, not known to this pool, or not plugged."""

    def __init__(self, backend_id: int, *, problem: str) -> None:
        super().__init__(f"backend {backend_id} is not ready: {problem}; `xenvol sm setup` retries")
        self.backend_id = backend_id
        self.problem = problem


class NoSuchStorageDriver(UnsupportedSRType):
    """No current release ships the storage driver of this type."""

    def __init__(self, sr_type: str, *, host: str, offered: Iterable[str]) -> None:
        super().__init__(sr_type, host=host, offered=offered)
        self.args = (
            f"host {host} offers no SRs of type {sr_type!r}: neither XCP-ng nor any current XenServer ships its "
            "storage driver; reach the array by iSCSI, Fibre Channel or NFS (lvmoiscsi, lvmohba, nfs)",
        )


class UnknownVolume(RequestError):
    def __init__(self, volume_id: str) -> None:
        super().__init__(
            f"no volume or snapshot has the id {volume_id!r}; `xenvol sm volume_list` lists them"
        )
        self.volume_id = volume_id


class VolumeExists(RequestError):
    """The id belongs to a volume that is not the one asked for."""

    def __init__(self, volume_id: str, *, difference: str) -> None:
        super().__init__(f"volume {volume_id!r} exists already, and {difference}: use another id")
        self.volume_id = volume_id


class VDITaken(RequestError):
    def __init__(self, vdi_uuid: str, *, volume_id: str) -> None:
        super().__init__(f"VDI {vdi_uuid} is volume {volume_id!r} already")
        self.vdi_uuid = vdi_uuid
        self.volume_id = volume_id


class VDIMarked(RequestError):
    """The VDI is marked as another volume, which this database does not have, or is making."""

    def __init__(self, vdi_uuid: str, *, volume_id: str) -> None:
        super().__init__(
            f"VDI {vdi_uuid} is marked as volume {volume_id!r}: use that id; or, if it is to be another volume, say "
            f"so with `--marked-as {shlex.quote(volume_id)}`"
        )
        self.vdi_uuid = vdi_uuid
        self.volume_id = volume_id


class VolumeNotReady(RequestError):
    """The volume is being made or deleted."""

    def __init__(self, volume_id: str, *, state: str) -> None:
        super().__init__(
            f"volume {volume_id!r} is {state}; if that does not end, its process has died: "
            "`xenvol sm audit --repair` finishes it"
        )
        self.volume_id = volume_id
        self.state = state


class NotSupported(RequestError):
    """The operation is not possible for this volume, snapshot, VDI or backend."""

    def __init__(self, what: str, *, reason: str) -> None:
        super().__init__(f"{what} is not possible: {reason}")
        self.what = what
        self.reason = reason


class NoBackendFits(StorageError):
    """No backend of the flavor takes the volume; `reasons` says why, by the backend's id."""

    def __init__(self, flavor: str, *, size: int, reasons: Mapping[int, str]) -> None:
        self.flavor = flavor
        self.size = size
        self.reasons = dict(reasons)
        each = [f"backend {backend_id}: {reason}" for backend_id, reason in self.reasons.items()]
        super().__init__(
            f"no backend of flavor {flavor!r} takes a volume of {exact_size(size)}: "
            f"{'; '.join(each[:_SHOWN]) or 'it has no backends'}"
            + (f"; and {len(each) - _SHOWN} more" if len(each) > _SHOWN else "")
        )


class Overtaken(HypervisorError):
    """Other services changed the same volume during each of several attempts."""

    def __init__(self, volume_id: str) -> None:
        super().__init__(f"other services changed volume {volume_id!r} meanwhile: repeat the call")
        self.volume_id = volume_id


class DatabaseError(XenVolError):
    """The Storage Manager's database failed; `problem` contains no password."""

    def __init__(self, url: str, *, problem: str) -> None:
        super().__init__(f"database {url}: {problem}")
        self.url = url
        self.problem = problem


def _listed(items: Collection[str]) -> str:
    more = len(items) - _SHOWN
    text = ", ".join(list(items)[:_SHOWN])
    return f"{text} and {more} more" if more > 0 else text
