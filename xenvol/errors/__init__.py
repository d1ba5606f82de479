"""Every exception of xenvol, sorted by blame. Facts are attributes, and no text shows a secret.

* `RequestError`: the request cannot be carried out; the same request fails again.
* `VMError`: the VM cannot take or release the disk in its present state.
* `DriverError`: the package of the driver must change.
* `StorageError`: the storage does not have what the connection_info promises.
* `HypervisorError`: xapi or a host refuses. `XapiError` is xapi's refusal verbatim: the call did not happen.
* `XapiUnreachable`: no answer. The call may have happened; check before calling again.

A message names the culprit and the remedy. Pickling and copying keep the facts and the notes.
"""

import datetime
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from xenvol.errors.remedies import Remedy, find_remedy
from xenvol.secret import masked

_SHOWN = 8  # a message names so many items of a list, then says "and n more"; the attribute has all
_PARAM_LENGTH = 300  # characters of a parameter that a message shows: the XML of a probe can be pages long


class XenVolError(Exception):
    """The base of every exception of xenvol."""

    is_transient = False
    """Whether the same call may succeed a little later, without any other action."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception would call the constructor with the message; the constructors here take the facts.
        return _restore, (type(self), self.args, self.__dict__.copy())


def _restore(kind: type[XenVolError], args: tuple[object, ...], facts: Mapping[str, object]) -> XenVolError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


# --- the request -------------------------------------------------------------------------------------------


class RequestError(XenVolError):
    """The request cannot be carried out; it must change."""


class InvalidArgument(RequestError, ValueError):
    """An argument of `xenvol.connect` is wrong: an address, a way to trust a host, a type."""


class InvalidConnectionInfo(RequestError):
    """A key of the connection_info is missing or wrong. `problem` must not show a value that may be a secret."""

    def __init__(
        self, key: str, driver: str | None, *, accepted: str, problem: str = "is not accepted"
    ) -> None:
        who = "connection_info" if driver is None else f"connection_info for driver {driver!r}"
        super().__init__(f"{who}: key {key!r} {problem}; accepted: {accepted}")
        self.key = key
        self.driver = driver
        self.accepted = accepted


class InvalidMountpoint(RequestError):
    def __init__(self, mountpoint: object, *, problem: str = "is not the name of a disk") -> None:
        super().__init__(
            f"mountpoint {mountpoint!r} {problem}; "
            "accepted: /dev/xvdb, xvdb, vdb, sdb, hdb, a number from 0 to 254, or auto"
        )
        self.mountpoint = mountpoint


class MountpointInUse(RequestError):
    """Another disk has this position, and a disk is never put elsewhere unasked. `free` has the free names."""

    def __init__(self, mountpoint: object, *, free: Iterable[str]) -> None:
        self.mountpoint = mountpoint
        self.free = list(free)
        super().__init__(
            f"mountpoint {mountpoint!r} is in use on this VM; "
            f"free: {_listed(self.free) or 'none'}; or use auto"
        )


class NoFreeMountpoint(RequestError):
    def __init__(self, *, taken: int) -> None:
        super().__init__(
            f"the VM has no free position for another disk ({taken} of 255 are taken; auto skips position 3, the "
            "CD drive's): detach a disk first"
        )
        self.taken = taken


class UnknownVM(RequestError):
    def __init__(self, name: str) -> None:
        super().__init__(f"no VM has the reference, uuid or name {name!r}")
        self.name = name


class TemplateGiven(RequestError):
    def __init__(self, vm: str) -> None:
        super().__init__(
            f"{vm} is a template or a snapshot, which takes no volumes: create a VM from it first"
        )
        self.vm = vm


class AmbiguousVM(RequestError):
    """Several VMs have this name; `candidates` are (uuid, name, power state)."""

    def __init__(self, name: str, *, candidates: Iterable[tuple[str, str, str]]) -> None:
        self.name = name
        self.candidates = list(candidates)
        listed = _listed([f"{uuid} ({power_state})" for uuid, _, power_state in self.candidates])
        super().__init__(f"{len(self.candidates)} VMs have the name {name!r}: {listed}; give a uuid")


class UnknownHost(RequestError):
    """No host has this name, or several have it: then `candidates` has their uuids."""

    def __init__(self, name: str, *, candidates: Iterable[str] = ()) -> None:
        self.name = name
        self.candidates = list(candidates)
        found = f"hosts {_listed(self.candidates)} have" if self.candidates else "no host has"
        super().__init__(f"{found} the reference, uuid or name {name!r}; give a uuid")


class AttachmentFenced(RequestError):
    """A detach named an attachment id that is not the one in place. Nothing was changed."""

    def __init__(self, attachment_id: str, *, current: str | None) -> None:
        super().__init__(
            f"attachment {attachment_id!r} is not in place: the volume has been attached again since, as "
            f"{current!r}; nothing was detached: to detach it, give the new id"
        )
        self.attachment_id = attachment_id
        self.current = current


# --- the virtual machine -----------------------------------------------------------------------------------


class VMError(XenVolError):
    """The VM cannot take or release the disk in its present state."""


class NotHotpluggable(VMError):
    """The VM takes no disk while it runs. Shut down, it does."""

    def __init__(self, vm: str, *, reason: str) -> None:
        super().__init__(
            f"VM {vm} takes no disk while it runs: {reason}; "
            "install the Xen guest drivers in it, or attach with `hotplug=False` and restart it"
        )
        self.vm = vm
        self.reason = reason


class ReadOnlyNotSupported(VMError):
    def __init__(self, vm: str) -> None:
        super().__init__(
            f"VM {vm} is an HVM guest, and xapi gives no read-only disk to those "
            "(DISK_VBD_MUST_BE_READWRITE_FOR_HVM): attach with access_mode rw, or use a PV guest"
        )
        self.vm = vm


class VMBusy(VMError):
    """The VM is being migrated, shut down, suspended… The same call may succeed later."""

    is_transient = True

    def __init__(self, vm: str, *, operation: str) -> None:
        super().__init__(f"VM {vm} is busy with {operation}: retry when that has ended")
        self.vm = vm
        self.operation = operation


class AttachedMeanwhile(VMError):
    """Another attempt attaches the same volume to the same VM, or took the position. The facade retries by itself."""

    is_transient = True

    def __init__(self, vm: str) -> None:
        super().__init__(f"another attempt is attaching this volume to VM {vm}, or took the position: retry")
        self.vm = vm


class WrongPowerState(VMError):
    def __init__(self, vm: str, power_state: str, *, needed: str, remedy: str) -> None:
        super().__init__(f"VM {vm} is {power_state} and must be {needed}: {remedy}")
        self.vm = vm
        self.power_state = power_state
        self.needed = needed


class DiskNotReleased(VMError):
    """The guest does not release the disk. It is still attached, and nothing was changed."""

    def __init__(self, vm: str, *, device: str) -> None:
        super().__init__(
            f"VM {vm} does not release {device}: unmount it in the guest, then detach again (or shut the VM down, "
            "which releases it)"
        )
        self.vm = vm
        self.device = device


# --- the package of a driver -------------------------------------------------------------------------------


class DriverError(XenVolError):
    """The package of a driver, or the choice of packages, must change."""


class UnknownDriver(DriverError):
    """No installed package has a driver of this name, or the preferred package has none."""

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
    """Several packages have a driver of this name, and no preference chooses one."""

    def __init__(self, name: str, *, packages: Iterable[str]) -> None:
        self.name = name
        self.packages = list(packages)
        super().__init__(
            f"{len(self.packages)} packages claim the driver {name!r}: {_listed(self.packages)}; "
            f"uninstall all but one, or set {preference_variable(name)}=<package>"
        )


class InvalidDriver(DriverError):
    """A class breaks the contract of a driver. `problem` names the method and says what to change."""

    def __init__(self, name: str, *, package: str, problem: str) -> None:
        super().__init__(f"driver {name!r} of package {package} breaks the contract: {problem}")
        self.name = name
        self.package = package
        self.problem = problem


class DriverLoadFailed(DriverError):
    """The code of the package failed at its import. The cause is chained."""

    def __init__(self, name: str, *, package: str, cause: BaseException) -> None:
        self.name = name
        self.package = package
        self.reason = f"{type(cause).__name__}: {cause}"
        super().__init__(
            f"driver {name!r} of package {package} cannot be imported ({self.reason}): repair or uninstall it"
        )


class ForbiddenCall(DriverError):
    """A driver tried to make or erase data, or to touch a VM. No driver may."""

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
            f"driver {driver!r} cannot show the new size of a volume: detach the volume and attach it again"
        )
        self.driver = driver


# --- the storage -------------------------------------------------------------------------------------------


class StorageError(XenVolError):
    """The storage does not have what the connection_info promises."""


class VolumeNotFound(StorageError):
    """The storage answers, but does not have the volume. `found` has what it shows instead."""

    def __init__(self, what: str, *, found: Iterable[str] = ()) -> None:
        self.what = what
        self.found = list(found)
        super().__init__(
            f"{what} is not there; found: {_listed(self.found) or 'nothing'}; "
            "check that the volume is exported to this host"
        )


class WrongVolume(StorageError):
    """The disk that was found is not the volume of the connection_info. Nothing was plugged."""

    def __init__(self, expected: str, *, found: str) -> None:
        super().__init__(
            f"the disk found is not the requested volume: expected {expected}, found {found}; "
            "nothing was plugged: check the mapping on the storage, and that the connection_info is not stale"
        )
        self.expected = expected
        self.found = found


class VolumeInUse(StorageError):
    """Other VMs use the volume and do not share it. `users` names them."""

    def __init__(
        self, vdi: str, *, users: Iterable[str], can_share: bool = True, is_to_go: bool = False
    ) -> None:
        self.vdi = vdi
        self.users = list(users)
        remedy = ", or attach it everywhere with multiattach" if can_share else ", its SR cannot share disks"
        super().__init__(
            f"VDI {vdi} is in use by {_listed(self.users) or 'another VM'}: detach it there first"
            f"{'' if is_to_go else remedy}"
        )


class HalfWrittenDisk(StorageError):
    """An import writes to the disk, or failed or was killed while it did. The disk is not to be read or handed out.

    `is_new`: an import was making the disk. Else the import was overwriting it, and the disk holds a part of its old
    data and a part of the image. `machine` (host name and process number) and `began` are None if not known.
    """

    def __init__(
        self,
        vdi: str,
        *,
        is_new: bool,
        machine: str | None,
        began: datetime.datetime | None,
        has_failed: bool = False,
    ) -> None:
        what = "is an unfinished disk" if is_new else "is half written over"
        where = "" if machine is None else f" on {machine}"
        since = "" if began is None else f", begun at {began:%Y-%m-%d %H:%M:%S} UTC,"
        state = "has failed" if has_failed else "has not finished"
        remedy = "remove it with `xenvol image sweep --remove`" if is_new else "fill the disk again"
        super().__init__(
            f"VDI {vdi} {what}: an import{where}{since} {state}; "
            f"{'' if has_failed else 'wait for it if it still runs, else '}{remedy}; `xenvol image sweep` lists it"
        )
        self.vdi = vdi
        self.is_new = is_new
        self.machine = machine
        self.began = began
        self.has_failed = has_failed


class UnmanagedVDI(StorageError):
    """xapi shows the disk and gives it to no VM: a LUN of type ``hba`` that its administrator has not adopted."""

    def __init__(self, vdi: str) -> None:
        super().__init__(
            f"VDI {vdi} is not managed, so xapi gives it to no VM; with SRs of type hba a LUN must be adopted by "
            "its administrator first, since VDI.create there takes any LUN that is large enough"
        )
        self.vdi = vdi


# --- the hypervisor ----------------------------------------------------------------------------------------


class HypervisorError(XenVolError):
    """xapi or a host refuses."""


class UnsupportedSRType(HypervisorError):
    """The host has no storage driver of this type. Raised before anything is changed."""

    def __init__(self, sr_type: str, *, host: str, offered: Iterable[str]) -> None:
        self.sr_type = sr_type
        self.host = host
        self.offered = sorted(offered)
        super().__init__(
            f"host {host} has no storage driver for SRs of type {sr_type!r}; it has: "
            f"{_listed(self.offered, shown=50) or 'none'}; install the storage driver on every host"
        )


class HostNotReady(HypervisorError):
    """A host lacks something that only its operator can change: it has no initiator IQN, it is down…"""

    def __init__(self, host: str, *, problem: str) -> None:
        super().__init__(f"host {host} is not ready: {problem}")
        self.host = host
        self.problem = problem


class XapiError(HypervisorError):
    """xapi's refusal, verbatim: the call did not happen.

    `code` and `params` are xapi's ErrorDescription: decide by them, not by the text. `call` is the call, such as
    "SR.introduce". What looks like a password in a parameter is masked.
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
        """What the operator can do about it, or None."""
        return None if self.remedy is None else self.remedy.text

    @property
    def is_transient(self) -> bool:  # type: ignore[override]  # depends on xapi's code
        return self.remedy is not None and self.remedy.kind == "retry"


class ChangedMeanwhile(HypervisorError):
    """Another process kept changing what an operation worked on, also during its retries. It was undone.

    The cause is the last refusal by xapi, if there was one.
    """

    is_transient = True

    def __init__(self, operation: str, *, what: str) -> None:
        super().__init__(f"{operation}: {what} meanwhile, and again during every retry: retry a little later")
        self.operation = operation
        self.what = what


# --- no answer ---------------------------------------------------------------------------------------------


class XapiUnreachable(XenVolError):
    """No answer. The call may have happened or not: read the object before calling again.

    `cause` is the error of the transport. A pickle drops it, since not every error can be pickled, and keeps its text,
    `reason`. `was_sent` is False if there was no connection: then the call did not happen.
    """

    def __init__(self, call: str, cause: BaseException) -> None:
        self.call = call
        self.cause: BaseException | None = cause
        self.reason = masked(f"{type(cause).__name__}: {cause}")
        self.was_sent: bool = getattr(cause, "was_sent", True)
        super().__init__(self._message())

    def _message(self) -> str:
        if not self.was_sent:
            what_now = "nothing was sent; check the address, and that the host is up"
        elif self.call.startswith("session.login_"):
            what_now = "nothing was changed; check the address, and that the host is up"
        else:
            what_now = "it may have happened or not; repeat the request, which finds out and completes it"
        return f"{self.call} got no answer ({self.reason}): {what_now}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__ | {"cause": None})


class DeadlineExceeded(XapiUnreachable):
    """The deadline of the operation passed, before this call or during it. `seconds` was the deadline.

    What an attach or a connect began was taken back, except for what the notes say. A detach is completed by the same
    call again.
    """

    def __init__(self, call: str, cause: BaseException | None, *, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(call, cause or _NotSent("no time was left"))

    def _message(self) -> str:
        what_now = "it may have happened or not" if self.was_sent else "it was not sent"
        return (
            f"the deadline of {self.seconds:g} s passed at {self.call}: {what_now}; repeat the request with more time, "
            "which finds out and completes it"
        )


class _NotSent(Exception):
    was_sent = False


class HostNotTrusted(XapiUnreachable):
    """The host that answers did not prove its identity, so nothing was sent to it. The same call fails again."""

    def _message(self) -> str:
        return masked(f"{self.cause}; nothing was sent")


# --- texts -------------------------------------------------------------------------------------------------

_NAMES_A_SESSION = frozenset({"SESSION_INVALID", "SESSION_NOT_REGISTERED"})


def preference_variable(name: str) -> str:
    """Return the environment variable that chooses a driver's package, such as XENVOL_DRIVER_FIBRE_CHANNEL."""
    return "XENVOL_DRIVER_" + re.sub(r"[^A-Z0-9]+", "_", name.upper())


def _shown_params(code: str, params: tuple[str, ...]) -> str:
    if not params:
        return ""
    if code in _NAMES_A_SESSION or (code == "HANDLE_INVALID" and params[0] == "session"):
        return " [a session]"  # its reference is as good as a password
    cut = [p if len(p) <= _PARAM_LENGTH else f"{p[:_PARAM_LENGTH]}…" for p in params if p]
    return f" [{', '.join(cut)}]"


def _listed(items: Collection[str], *, shown: int = _SHOWN) -> str:
    more = len(items) - shown
    text = ", ".join(list(items)[:shown])
    return f"{text} and {more} more" if more > 0 else text
