"""Every exception of xenvol, sorted by whose fault it is; facts are attributes, and no text shows a secret.

* `RequestError`: the caller asked for what cannot be; asking again does not help.
* `VMError`: the virtual machine cannot take or give the disk as it is now.
* `DriverError`: the package that a driver comes from must change.
* `StorageError`: the storage does not have what the connection_info promised.
* `HypervisorError`: xapi, or a host, said no. `XapiError` is its "no" verbatim: it did not happen.
* `XapiUnreachable`: no answer. It may have happened; look before doing it again.

A message names the culprit and the remedy. Pickling and copying keep the facts and the notes.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from xenvol.errors.remedies import Remedy, find_remedy
from xenvol.secret import masked

_SHOWN = 8  # of a list, a message names so many and says "and n more"; the attribute has all
_PARAM_LENGTH = 300  # of one parameter, likewise: the XML of a probe can be pages long


class XenVolError(Exception):
    """The base of them all."""

    is_transient = False
    """Whether the same call may succeed a little later without anybody doing anything else."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception would call the constructor with the message, which is not what our constructors take.
        return _restore, (type(self), self.args, self.__dict__.copy())


def _restore(kind: type[XenVolError], args: tuple[object, ...], facts: Mapping[str, object]) -> XenVolError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


# --- the request -------------------------------------------------------------------------------------------


class RequestError(XenVolError):
    """What was asked for cannot be; the request must change."""


class InvalidArgument(RequestError, ValueError):
    """An argument of `xenvol.connect` cannot be: an address, a way to trust a host, a type."""


class InvalidConnectionInfo(RequestError):
    """A key of the connection_info is missing or wrong; `problem` shows no value that could be a secret."""

    def __init__(
        self, key: str, driver: str | None, *, accepted: str, problem: str = "is not accepted"
    ) -> None:
        who = "connection_info" if driver is None else f"connection_info for driver {driver!r}"
        super().__init__(f"{who}: key {key!r} {problem}; accepted: {accepted}")
        self.key = key
        self.driver = driver
        self.accepted = accepted


class InvalidMountpoint(RequestError):
    def __init__(self, mountpoint: object, *, problem: str = "is not a disk's name") -> None:
        super().__init__(
            f"mountpoint {mountpoint!r} {problem}; "
            "accepted: /dev/xvdb, xvdb, vdb, sdb, hdb, a number from 0 to 254, or auto"
        )
        self.mountpoint = mountpoint


class MountpointInUse(RequestError):
    """Somebody is there already, and a disk is never silently moved; `free` has the names that are left."""

    def __init__(self, mountpoint: object, *, free: Iterable[str]) -> None:
        self.mountpoint = mountpoint
        self.free = list(free)
        super().__init__(
            f"mountpoint {mountpoint!r} is in use on this VM; "
            f"free: {_listed(self.free) or 'none'}, or ask for auto"
        )


class NoFreeMountpoint(RequestError):
    def __init__(self, *, taken: int) -> None:
        super().__init__(
            f"the VM has no position left for another disk ({taken} of 255 are taken; position 3, "
            "the CD drive's, is given only when asked for by name): detach a disk first"
        )
        self.taken = taken


class UnknownVM(RequestError):
    def __init__(self, name: str) -> None:
        super().__init__(f"no VM has the reference, uuid or name {name!r}")
        self.name = name


class TemplateGiven(RequestError):
    def __init__(self, vm: str) -> None:
        super().__init__(f"{vm} is a template or a snapshot, which takes no volumes: make a VM of it first")
        self.vm = vm


class AmbiguousVM(RequestError):
    """Several VMs have this name; `candidates` are (uuid, name, power state)."""

    def __init__(self, name: str, *, candidates: Iterable[tuple[str, str, str]]) -> None:
        self.name = name
        self.candidates = list(candidates)
        listed = _listed([f"{uuid} ({power_state})" for uuid, _, power_state in self.candidates])
        super().__init__(f"{len(self.candidates)} VMs have the name {name!r}: {listed}; give a uuid")


class UnknownHost(RequestError):
    """No host, or several, of this name; `candidates` are the uuids of the several."""

    def __init__(self, name: str, *, candidates: Iterable[str] = ()) -> None:
        self.name = name
        self.candidates = list(candidates)
        found = f"hosts {_listed(self.candidates)} have" if self.candidates else "no host has"
        super().__init__(f"{found} the reference, uuid or name {name!r}; give a uuid")


class AttachmentFenced(RequestError):
    """A detach named an attachment that is no longer the one in place; nothing was touched."""

    def __init__(self, attachment_id: str, *, current: str | None) -> None:
        super().__init__(
            f"attachment {attachment_id!r} is over, and the volume has since been attached anew as "
            f"{current!r}; nothing was detached: to take off the new one, name it"
        )
        self.attachment_id = attachment_id
        self.current = current


# --- the virtual machine -----------------------------------------------------------------------------------


class VMError(XenVolError):
    """The virtual machine cannot do it as it is now."""


class NotHotpluggable(VMError):
    """The VM is running and takes no disk; shut down, it would."""

    def __init__(self, vm: str, *, reason: str) -> None:
        super().__init__(
            f"VM {vm} takes no disk while it runs: {reason}; "
            "install the Xen guest drivers in it, or attach with hotplug=False and restart it"
        )
        self.vm = vm
        self.reason = reason


class ReadOnlyNotSupported(VMError):
    def __init__(self, vm: str) -> None:
        super().__init__(
            f"VM {vm} is an HVM guest, and xapi gives those no read-only disk "
            "(DISK_VBD_MUST_BE_READWRITE_FOR_HVM): attach with access_mode rw, or use a PV guest"
        )
        self.vm = vm


class VMBusy(VMError):
    """The VM is being migrated, shut down, suspended…; later it may work."""

    is_transient = True

    def __init__(self, vm: str, *, operation: str) -> None:
        super().__init__(f"VM {vm} is busy with {operation}: try again when that is over")
        self.vm = vm
        self.operation = operation


class AttachedMeanwhile(VMError):
    """Another attempt attaches the same volume to the same VM right now; the facade looks again by itself."""

    is_transient = True

    def __init__(self, vm: str) -> None:
        super().__init__(
            f"another attempt is attaching this volume to VM {vm}, or took the position: try again"
        )
        self.vm = vm


class WrongPowerState(VMError):
    def __init__(self, vm: str, power_state: str, *, needed: str, remedy: str) -> None:
        super().__init__(f"VM {vm} is {power_state}, and must be {needed}: {remedy}")
        self.vm = vm
        self.power_state = power_state
        self.needed = needed


class DiskNotReleased(VMError):
    """The guest keeps the disk; it is still attached, and nothing was changed."""

    def __init__(self, vm: str, *, device: str) -> None:
        super().__init__(
            f"VM {vm} does not let go of {device}: unmount it in the guest, then detach again "
            "(or shut the VM down: then nobody is asked)"
        )
        self.vm = vm
        self.device = device


# --- the package of a driver -------------------------------------------------------------------------------


class DriverError(XenVolError):
    """The package that a driver comes from, or the choice of packages, must change."""


class UnknownDriver(DriverError):
    """No installed package offers this name, or not the package that the configuration demands."""

    def __init__(self, name: str, *, installed: Collection[str], package: str | None = None) -> None:
        self.name = name
        self.installed = list(installed)
        self.package = package
        which = "" if package is None else f" of package {package!r}"
        super().__init__(
            f"no driver{which} for driver_volume_type {name!r} is installed; installed: "
            f"{_listed(self.installed, shown=50) or 'none'}; install a package that has an entry point "
            f"{name!r} in the group xenvol.drivers"
        )


class AmbiguousDriver(DriverError):
    """Several packages claim one name, and nothing says which is meant."""

    def __init__(self, name: str, *, packages: Iterable[str]) -> None:
        self.name = name
        self.packages = list(packages)
        super().__init__(
            f"{len(self.packages)} packages claim the driver {name!r}: {_listed(self.packages)}; "
            f"uninstall all but one, or set {preference_variable(name)}=<package>"
        )


class InvalidDriver(DriverError):
    """A class breaks the contract of a driver; `problem` names the method and says what to change."""

    def __init__(self, name: str, *, package: str, problem: str) -> None:
        super().__init__(f"driver {name!r} of package {package} breaks the contract: {problem}")
        self.name = name
        self.package = package
        self.problem = problem


class DriverLoadFailed(DriverError):
    """The package's own code failed when it was imported; the cause is chained."""

    def __init__(self, name: str, *, package: str, cause: BaseException) -> None:
        self.name = name
        self.package = package
        self.reason = f"{type(cause).__name__}: {cause}"
        super().__init__(
            f"driver {name!r} of package {package} cannot be imported ({self.reason}): repair or uninstall it"
        )


class ForbiddenCall(DriverError):
    """A driver tried to make or erase data; attaching must not be able to."""

    def __init__(self, call: str, *, driver: str | None = None) -> None:
        who = "a driver" if driver is None else f"driver {driver!r}"
        super().__init__(
            f"{who} may not call {call}: connecting a volume makes and erases no data, and touches no VM; "
            "use introduce and forget"
        )
        self.call = call
        self.driver = driver


class ExtendNotSupported(DriverError):
    def __init__(self, driver: str) -> None:
        super().__init__(
            f"driver {driver!r} cannot see that a volume grew: detach the volume and attach it again"
        )
        self.driver = driver


# --- the storage -------------------------------------------------------------------------------------------


class StorageError(XenVolError):
    """The storage does not have what the connection_info promised."""


class VolumeNotFound(StorageError):
    """The storage answers, but has no such volume; `found` says what is there instead."""

    def __init__(self, what: str, *, found: Iterable[str] = ()) -> None:
        self.what = what
        self.found = list(found)
        super().__init__(
            f"{what} is not there; found: {_listed(self.found) or 'nothing'}; "
            "check that the volume is exported, and to this host"
        )


class WrongVolume(StorageError):
    """The disk that was found is not the one that the connection_info describes; nothing was plugged."""

    def __init__(self, expected: str, *, found: str) -> None:
        super().__init__(
            f"the disk found is not the volume asked for: expected {expected}, found {found}; "
            "nothing was plugged: check the mapping on the storage, and that the connection_info is fresh"
        )
        self.expected = expected
        self.found = found


class VolumeInUse(StorageError):
    """Others have the volume attached and do not share it; `users` names them."""

    def __init__(
        self, vdi: str, *, users: Iterable[str], can_share: bool = True, is_to_go: bool = False
    ) -> None:
        self.vdi = vdi
        self.users = list(users)
        remedy = ", or attach it everywhere with multiattach" if can_share else ", its SR cannot share disks"
        super().__init__(
            f"VDI {vdi} is in use by {_listed(self.users) or 'somebody'}: detach it there first"
            f"{'' if is_to_go else remedy}"
        )


class UnmanagedVDI(StorageError):
    """The storage driver shows the disk and does not give it to VMs: type ``hba`` before somebody adopts a LUN."""

    def __init__(self, vdi: str) -> None:
        super().__init__(
            f"VDI {vdi} is not managed, so xapi gives it to no VM; with SRs of type hba a LUN must be adopted by "
            "its administrator first, since VDI.create there takes any LUN that is large enough"
        )
        self.vdi = vdi


# --- the hypervisor ----------------------------------------------------------------------------------------


class HypervisorError(XenVolError):
    """xapi, or one of its hosts, does not do it."""


class UnsupportedSRType(HypervisorError):
    """The host has no storage driver of this type; found out before anything was made."""

    def __init__(self, sr_type: str, *, host: str, offered: Iterable[str]) -> None:
        self.sr_type = sr_type
        self.host = host
        self.offered = sorted(offered)
        super().__init__(
            f"host {host} offers no SRs of type {sr_type!r}; it offers: "
            f"{_listed(self.offered, shown=50) or 'none'}; install the storage driver on every host"
        )


class HostNotReady(HypervisorError):
    """A host lacks something that only its operator can give it (an initiator IQN, being up…)."""

    def __init__(self, host: str, *, problem: str) -> None:
        super().__init__(f"host {host} is not ready: {problem}")
        self.host = host
        self.problem = problem


class XapiError(HypervisorError):
    """xapi's "no", verbatim: what was called did not happen.

    `code` and `params` are xapi's ErrorDescription, and are what decisions are made on; `call` is the message
    that was sent, as in "SR.introduce". Anything that looks like a password in a parameter is masked.
    """

    def __init__(self, code: str, params: Iterable[object], call: str) -> None:
        self.code = code
        self.params: tuple[str, ...] = tuple(masked(str(param)) for param in params)
        self.call = call
        hint = "" if self.hint is None else f"; {self.hint}"
        super().__init__(f"{call} was refused: {code}{_shown_params(code, self.params)}{hint}")

    @property
    def remedy(self) -> Remedy | None:
        return find_remedy(self.code)

    @property
    def hint(self) -> str | None:
        """What a human can do about it, where that is known."""
        return None if self.remedy is None else self.remedy.text

    @property
    def is_transient(self) -> bool:  # type: ignore[override]  # each code of xapi says it for itself
        return self.remedy is not None and self.remedy.kind == "retry"


class ChangedMeanwhile(HypervisorError):
    """Another process changed, again and again, what an operation was working on; what it did is taken back.

    The cause is the last refusal of xapi, where it was one.
    """

    is_transient = True

    def __init__(self, operation: str, *, what: str) -> None:
        super().__init__(
            f"{operation}: {what} while this was under way, and after it was tried again: try once more a little later"
        )
        self.operation = operation
        self.what = what


# --- nobody knows ------------------------------------------------------------------------------------------


class XapiUnreachable(XenVolError):
    """No answer. The call may have happened or not: look the object up before doing it again.

    `cause` is what the transport said; it stays behind when the error is pickled, since not every one
    survives that, and `reason`, its text, travels. `was_sent` is False when there was not even a connection.
    """

    def __init__(self, call: str, cause: BaseException) -> None:
        self.call = call
        self.cause: BaseException | None = cause
        self.reason = masked(f"{type(cause).__name__}: {cause}")
        self.was_sent: bool = getattr(cause, "was_sent", True)
        what_now = (
            "it may have happened or not; the same request again finds out, and completes it"
            if self.was_sent
            else "nothing was sent; check the address, and whether the host is up"
        )
        super().__init__(f"{call} got no answer ({self.reason}): {what_now}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__ | {"cause": None})


# --- saying it ---------------------------------------------------------------------------------------------

_NAMES_A_SESSION = frozenset({"SESSION_INVALID", "SESSION_NOT_REGISTERED"})


def preference_variable(name: str) -> str:
    """The environment variable that chooses between packages, XENVOL_DRIVER_FIBRE_CHANNEL for one."""
    return "XENVOL_DRIVER_" + re.sub(r"[^A-Z0-9]+", "_", name.upper())


def _shown_params(code: str, params: tuple[str, ...]) -> str:
    if not params:
        return ""
    if code in _NAMES_A_SESSION or (code == "HANDLE_INVALID" and params[0] == "session"):
        return " [a session]"  # whoever has its reference is logged in
    cut = [p if len(p) <= _PARAM_LENGTH else f"{p[:_PARAM_LENGTH]}…" for p in params if p]
    return f" [{', '.join(cut)}]"


def _listed(items: Collection[str], *, shown: int = _SHOWN) -> str:
    more = len(items) - shown
    text = ", ".join(list(items)[:shown])
    return f"{text} and {more} more" if more > 0 else text
