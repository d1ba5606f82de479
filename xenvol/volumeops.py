"""The facade: attach is connect and plug, detach is unplug and disconnect; what fails is taken back, newest first.

    connection_info ──parse──▶ driver ──connect_volume──▶ VDI ──VBD.create, VBD.plug──▶ Attachment

No state is kept here. What was done can be read in xapi by anyone, so every operation may be called again: attach
finds what is attached, detach what is left, whoever began it and wherever it died.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import tenacity

from xenvol import storage
from xenvol.attaching import connector as connectors
from xenvol.attaching import health, in_use, listing, migration, slots
from xenvol.attaching.attachment import Attachment, Volume
from xenvol.attaching.mountpoint import userdevice_of
from xenvol.attaching.vbd import VBDSpec, destroy_vbd
from xenvol.attaching.vm import VM, check_takes_disk, find_vm, is_starting
from xenvol.connection_data.connection_info import ConnectionInfo, keeps_secrets, parse, sealed
from xenvol.connection_data.frozen import FrozenMap
from xenvol.connection_data.identity import Identity
from xenvol.drivers import registry
from xenvol.drivers.base import VolumeDriver, digest_of
from xenvol.errors import (
    AttachedMeanwhile,
    ChangedMeanwhile,
    ExtendNotSupported,
    HostNotReady,
    MountpointInUse,
    RequestError,
    UnknownVM,
    WrongVolume,
    XapiError,
    XenVolError,
)
from xenvol.pool.marks import DISK
from xenvol.pool.undo import Undo
from xenvol.pool.view import Record, View, is_overtaken
from xenvol.secret import scrubbing, secrets_in
from xenvol.session import Session
from xenvol.session.refs import NULL_REF, HostRef, Name, SRRef, VBDRef, VDIRef, is_ref, is_uuid, text_of
from xenvol.storage.users import is_plugged

log = logging.getLogger(__name__)

T = TypeVar("T")

_NOT_ON_EVERY_HOST = "HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED"
ATTEMPTS = 5
"""An SR can be released by its last user just when we have found it; five times in a row is not chance."""


class VolumeOps:
    """Attach and detach volumes on one pool. Safe to use from several threads at once.

    `session` is one of `xenvol.connect`, or anything with ``.xenapi``. `prefer` maps a driver's name to the package
    that it shall come from, where several packages have one.
    """

    def __init__(self, session: Any, *, prefer: Mapping[str, str] | None = None) -> None:
        self._session = session if isinstance(session, Session) else Session(session)
        if prefer is not None and not isinstance(prefer, Mapping):
            raise RequestError(
                f"prefer maps names of drivers to packages, and is no value of type {type(prefer).__name__}"
            )
        self._prefer = prefer

    # ---- attach

    @keeps_secrets
    def attach_volume(
        self,
        connection_info: Mapping[str, object],
        vm: Name,
        mountpoint: str | int | None = None,
        *,
        hotplug: bool = True,
        bootable: bool = False,
    ) -> Attachment:
        """Connect the volume and put it into the VM at a mountpoint; None or "auto" takes the first one free.

        `vm` is a reference, a uuid or a name. A running VM gets the disk at once, unless `hotplug` is False; a
        halted one when it starts. `bootable` makes it the disk that the VM starts from: at position 0, unless a
        mountpoint is named; False leaves a disk that is in place as it is. Idempotent: a volume that is attached there
        already is returned. A disk that another tool put there without a mark, and that is the volume, is adopted.

        Raises what the request, the VM, the driver, the storage or xapi is to blame for (`xenvol.errors`); the
        pool is then as it was, or a note on the error says what could not be taken back.
        """
        _check_bool(hotplug=hotplug, bootable=bootable)
        wish = 0 if bootable and userdevice_of(mountpoint) is None else mountpoint
        attachment: Attachment = self._settled(
            "attach", self._attach, parse(connection_info), vm, wish, hotplug=hotplug, bootable=bootable
        )
        log.info(
            "volume %s is at %s of VM %s", attachment.volume_id, attachment.userdevice, attachment.vm_uuid
        )
        return attachment

    def _attach(
        self, info: ConnectionInfo, vm: Name, wish: str | int | None, *, hotplug: bool, bootable: bool
    ) -> Attachment:
        view = self._view(info)
        machine = find_vm(view, vm)
        vm_vbds = slots.read_disks(view, machine)
        will_plug = hotplug and machine.power_state != "Halted"
        hosts = _hosts_for(view, machine, will_plug=will_plug)
        driver = self._driver(info, view, hosts=hosts)
        volume = _identity_of(driver, info)
        mode = "RO" if info.access_mode == "ro" else "RW"
        there = slots.find_volume(vm_vbds, info, volume, wish)
        if there is not None and is_plugged(vm_vbds[there]):
            slots.check_same_place(vm_vbds[there], volume)
            slots.check_mode(machine, vm_vbds[there], mode)
            return self._keep(view, machine, there, vm_vbds[there], info, volume, bootable=bootable)

        metrics = view.known("VM_guest_metrics", machine.guest_metrics_ref)
        check_takes_disk(machine, metrics, mode=mode, will_plug=will_plug)
        userdevice = slots.choose_position(view, vm_vbds, there, wish, info, volume, driver)

        undo = Undo(hidden=view.hidden)
        try:
            vdi_ref = driver.connect_volume(info.data)
            shown_on = _shown_on(view, vdi_ref, hosts)
            marks = slots.marks(view, info, volume, vdi_ref)
            spec = VBDSpec(userdevice, mode, other_config=marks, ionice=info.ionice, bootable=bootable)
            with _telling_what_ha_lacks(view, machine, vdi_ref, shown_on):
                vbd_ref = _put_in(view, undo, _Place(machine, vm_vbds, there, wish), vdi_ref, spec, info)
                if will_plug:
                    slots.plug(view, undo, machine, vbd_ref, vdi_ref, vm_vbds.get(vbd_ref))
            attachment = _read_back(view, machine, vbd_ref, vdi_ref)
            _check_plugged(view, attachment.sr_ref, shown_on, attachment.volume_id)
            if hotplug and not attachment.is_plugged and _has_started(view, machine):
                slots.plug(view, undo, machine, vbd_ref, vdi_ref, vm_vbds.get(vbd_ref))
                attachment = _read_back(view, machine, vbd_ref, vdi_ref)
            slots.discard_if_second(view, machine, vbd_ref)
            return attachment
        except MountpointInUse as error:
            _take_back(undo, driver, info, error)
            if userdevice_of(wish) is None:  # somebody was faster, and we are not particular
                raise AttachedMeanwhile(str(machine)) from error
            raise
        except BaseException as error:
            _take_back(undo, driver, info, error)
            raise

    def _keep(
        self,
        view: View,
        vm: VM,
        vbd_ref: VBDRef,
        vbd: Record,
        info: ConnectionInfo,
        volume: Identity,
        *,
        bootable: bool,
    ) -> Attachment:
        """The attachment that is in place already, with the service's id for it now."""
        undo = Undo(hidden=view.hidden)
        try:
            if bootable:
                slots.make_bootable(view, undo, vbd_ref, vbd)
            slots.take_over(view, undo, vbd_ref, vbd, info)
            return _checked(view, volume, _read_back(view, vm, vbd_ref, vbd["VDI"]))
        except BaseException as error:
            undo.unwind(error)
            raise

    # ---- detach

    @keeps_secrets
    def detach_volume(
        self,
        connection_info: Mapping[str, object],
        vm: Name,
        mountpoint: str | int | None = None,
        *,
        attachment_id: Name | None = None,
    ) -> None:
        """Take the volume out of the VM and disconnect it. Idempotent: what is gone already is fine.

        `mountpoint`, when given, must be the one that the volume is at. `attachment_id`, when given (also in the
        connection_info), must be the one in place: else AttachmentFenced is raised and nothing touched. A detach
        goes forward: once the slot is empty it stays so, and the same call goes on from there.
        """
        if attachment_id is not None:  # an empty one, of a variable that is not set, would fence nothing
            attachment_id = text_of(attachment_id, "an attachment", by="its attachment_id, or None for any")
        info = parse(connection_info)
        self._settled("detach", self._detach, info, text_of(vm, "a VM"), mountpoint, attachment_id)

    def _detach(
        self, info: ConnectionInfo, vm: str, wish: str | int | None, attachment_id: str | None
    ) -> None:
        view = self._view(info)
        try:
            machine = find_vm(view, vm)
        except UnknownVM:
            if not (is_ref(vm) or is_uuid(vm)):
                raise  # a VM of another name may be the one
            log.info("VM %s is gone, and its VBDs with it; its volume is disconnected", vm)
            return self._driver(info, view).disconnect_volume(info.data)
        host = machine.resident_on
        driver = self._driver(info, view, hosts=None if host is None else [host])
        volume = _identity_of(driver, info)
        found = view.find("VBD", {"VM": machine.ref})
        vm_vbds = {VBDRef(ref): vbd for ref, vbd in found.items() if vbd["VDI"] != NULL_REF}
        first = slots.find_volume(vm_vbds, info, volume, wish)
        has_moved = first is not None and not volume.is_at(
            vm_vbds[first]["other_config"].get(DISK, volume.key)
        )
        shown = {vm_vbds[first]["VDI"]} if first is not None else set()
        if first is None or has_moved:
            others = {ref: vbd for ref, vbd in vm_vbds.items() if vbd["VDI"] not in shown}
            at_its_place = slots.find_unmarked(view, others, info, volume, driver)
            if has_moved:
                slots.check_not_marked_as_another(machine, others, at_its_place)
            shown |= at_its_place
        mine = {ref: vbd for ref, vbd in vm_vbds.items() if vbd["VDI"] in shown}
        slots.check_in_no_drive(machine, mine.values())
        for vbd in mine.values():
            slots.check_fence(vbd, attachment_id or info.attachment_id)
            if first is None:
                slots.check_position(vbd, wish)
        for vbd_ref, vbd in mine.items():
            slots.take_out(view, machine, vbd_ref, vbd)
            log.info("volume %s is out of VM %s", info.volume_id, machine)
        if first is not None and has_moved:
            view.read({"VDI": [vm_vbds[first]["VDI"]]})
            in_use.release_disk(
                view, vm_vbds[first]
            )  # it has moved: what showed it at its old place goes, too
        for vbd in mine.values():
            view.forget("VDI", vbd["VDI"])
        driver.disconnect_volume(info.data)
        # the data may name another target than the one whose SR shows the disk
        elsewhere = [vbd for vbd in mine.values() if view.known("VDI", vbd["VDI"]) is None]
        if elsewhere and not has_moved:
            view.read({"VDI": {vbd["VDI"] for vbd in elsewhere}})
            for vbd in elsewhere:
                in_use.release_disk(view, vbd)
        return None

    def detach_all(self, vm: Name) -> list[Attachment]:
        """Take every volume of xenvol's out of the VM, and release what showed them; say which they were.

        Needs no connection_info: what xenvol made says so in xapi. All are tried; the first error leaves at the end.
        """
        were: dict[VBDRef, Attachment] = {}
        self._settled("detach all", self._detach_all, vm, were, {})
        return list(were.values())

    def _detach_all(self, vm: Name, were: dict[VBDRef, Attachment], unreleased: dict[VBDRef, Record]) -> None:
        """Detach what is there now, and release what is `unreleased` of an earlier attempt; `were` gets all of it."""
        view = View(self._session)
        machine = find_vm(view, vm)
        vbds = listing.read_volumes(view, machine)
        were.update({each.vbd_ref: each for each in listing.attachments(view, machine, vbds)})
        view.read({"VDI": [vbd["VDI"] for ref, vbd in unreleased.items() if ref not in vbds]})
        unreleased.update(vbds)
        failures: list[XenVolError] = []
        for vbd_ref, vbd in list(unreleased.items()):
            try:
                if vbd_ref in vbds:
                    slots.take_out(view, machine, vbd_ref, vbd)
                in_use.release_disk(view, vbd)
                del unreleased[vbd_ref]
            except XenVolError as error:
                failures.append(error)
        if failures:
            first = next(filter(_was_overtaken, failures), failures[0])
            for failure in failures:
                if failure is not first:
                    first.add_note(f"and: {failure}")
            raise first

    # ---- without a VM: boot from volume

    @keeps_secrets
    def connect_volume(
        self, connection_info: Mapping[str, object], *, hosts: Iterable[Name] | None = None
    ) -> Volume:
        """Make the volume a VDI that a VM could start from, on these hosts or on all. Idempotent.

        Each of `hosts` is a reference, a uuid or a name.

        It stays connected until `disconnect_volume`, or until it is detached, whatever becomes of other volumes.
        """
        volume: Volume = self._settled("connect", self._connect, parse(connection_info), hosts)
        return volume

    def _connect(self, info: ConnectionInfo, hosts: Iterable[Name] | None) -> Volume:
        view = self._view(info)
        wanted = None if hosts is None else _find_hosts(view, hosts)
        driver = self._driver(info, view, hosts=wanted)
        undo = Undo(hidden=view.hidden)
        try:
            vdi_ref = driver.connect_volume(info.data)
            shown_on = _shown_on(view, vdi_ref, wanted)
            vdi = view.record("VDI", vdi_ref)
            in_use.hold(view, undo, vdi_ref, vdi, info)
            _read_shown(view, vdi)
            _check_plugged(view, SRRef(vdi["SR"]), shown_on, str(vdi_ref))
            return Volume(
                sr_ref=SRRef(vdi["SR"]),
                sr_uuid=view.record("SR", vdi["SR"])["uuid"],
                vdi_ref=vdi_ref,
                vdi_uuid=vdi["uuid"],
                virtual_size=int(vdi["virtual_size"]),
            )
        except BaseException as error:
            _take_back(undo, driver, info, error)
            raise

    @keeps_secrets
    def disconnect_volume(self, connection_info: Mapping[str, object]) -> None:
        """Make the volume gone from the pool, unless a VM has it or shares what shows it. Idempotent."""
        info = parse(connection_info)
        self._settled("disconnect", lambda: self._driver(info, self._view(info)).disconnect_volume(info.data))

    @keeps_secrets
    def extend_volume(self, connection_info: Mapping[str, object]) -> int:
        """Make xapi see that the volume grew; return its size in bytes. Idempotent.

        A LUN's new size is only seen while no disk of its target is plugged: VolumeInUse names those that are.
        """
        size: int = self._settled("extend", self._extend, parse(connection_info))
        return size

    def _extend(self, info: ConnectionInfo) -> int:
        driver = self._driver(info, self._view(info))
        if not hasattr(driver, "extend_volume"):
            raise ExtendNotSupported(info.driver_volume_type)
        try:
            return driver.extend_volume(info.data)
        except BaseException as error:
            _take_back(Undo(), driver, info, error)
            raise

    # ---- looking, cleaning, moving

    def list_volumes(self, vm: Name) -> list[Attachment]:
        """The volumes that xenvol has attached to the VM, in the order of their positions; four calls."""

        def look() -> list[Attachment]:
            view = View(self._session)
            return listing.list_volumes(view, find_vm(view, vm))

        return self._settled("list", look)

    def find_bad_volumes(self, vm: Name) -> list[health.BadVolume]:
        """The volumes of the VM that it could not start with now, each with the reason."""

        def look() -> list[health.BadVolume]:
            view = View(self._session)
            return health.find_bad_volumes(view, find_vm(view, vm))

        return self._settled("find bad volumes", look)

    def safe_cleanup_from_vdis(self, vdi_refs: Iterable[str]) -> None:
        """Release the SRs of these VDIs where nobody uses them. For error paths: raises nothing, logs instead."""
        if isinstance(vdi_refs, str) or not isinstance(vdi_refs, Iterable):
            log.warning(
                "nothing is released: a list of references is needed, not a %s", type(vdi_refs).__name__
            )
            return
        refs = [ref for ref in vdi_refs if isinstance(ref, str)]  # a look-up that failed gave None
        for ref in refs:
            try:
                self._settled("clean up", self._release_vdi, VDIRef(ref))
            except XenVolError as error:
                log.warning("VDI %s: what shows it could not be released: %s", ref, error)

    def _release_vdi(self, vdi_ref: VDIRef) -> None:
        in_use.release_vdi(View(self._session), vdi_ref)

    def prepare_migration(
        self, vm: Name, host: Name, connection_infos: Iterable[Mapping[str, object]] = ()
    ) -> list[str]:
        """Make the VM's volumes visible on the host that it shall move to; return the uuids of their SRs.

        `host` is a reference, a uuid or a name. `connection_infos` say how that host reaches the volumes, since many
        arrays give each host another target; a volume without one is reached as elsewhere. Idempotent; what fails is
        taken back.
        """
        if isinstance(connection_infos, str | Mapping) or not isinstance(connection_infos, Iterable):
            kind = type(connection_infos).__name__
            raise RequestError(f"connection_infos is a list of them, not a value of type {kind}")
        connection_infos = tuple(map(sealed, connection_infos))
        with scrubbing(secrets_in(connection_infos)):
            infos = [parse(sent) for sent in connection_infos]
            sr_uuids: list[str] = self._settled(
                "prepare a migration", self._prepare_migration, vm, host, infos
            )
            return sr_uuids

    def _prepare_migration(self, vm: Name, host: Name, infos: list[ConnectionInfo]) -> list[str]:
        view = self._view(*infos)

        def ways_to(volume: Attachment) -> migration.Ways:
            for info in infos:
                driver = self._driver(info, view)
                vdi = view.record("VDI", volume.vdi_ref)
                is_it = _identity_of(driver, info).is_of(vdi["uuid"], vdi["sm_config"].get("SCSIid"))
                tell = getattr(driver, "ways", None)
                if (is_it or info.volume_id == volume.volume_id) and tell is not None:
                    ways: migration.Ways = tell(info.data)
                    return ways
            return ()

        return migration.prepare(view, find_vm(view, vm), host, ways_to)

    def undo_migration(self, vm: Name, host: Name) -> None:
        """Take back `prepare_migration`, from the data alone: spares what a VM on that host uses. Idempotent."""

        def undo() -> None:
            view = View(self._session)
            migration.undo(view, find_vm(view, vm), host)

        self._settled("undo a migration", undo)

    def get_connectors(self, vm: Name) -> list[dict[str, Any]]:
        """What the service must know of every host to which it exports a volume for this VM, the master first.

        They are the VM's host and the pool's master, on which xapi works on every shared SR; every host for a VM that
        is halted or that HA protects, since it may start on any.
        """
        view = View(self._session)
        return connectors.get_connectors(view, find_vm(view, vm))

    def get_connector(self, host: Name | None = None) -> dict[str, Any]:
        """What the block-storage service must know of a host (of the master, unless one is named) to export to it."""
        return connectors.get_connector(View(self._session), host)

    def _view(self, *infos: ConnectionInfo) -> View:
        """A view for one operation, in whose errors no secret of the request shows, from its first call on."""
        view = View(self._session)
        view.hide(*secrets_in(tuple((info.data, info.extra, info.qos) for info in infos)))
        return view

    def _settled(self, doing: str, operation: Callable[..., T], *args: Any, **options: Any) -> T:
        """Run an operation, and again from its first look where another process changed what it was working on."""
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_was_overtaken),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_random(
                0, 0.2
            ),  # seconds; two that gave way to each other shall not meet again
            reraise=True,
        )
        try:
            return again(operation, *args, **options)
        except XapiError as error:
            if not is_overtaken(error):
                raise
            told = ChangedMeanwhile(doing, what=f"another process changed what it was working on ({error})")
            for note in getattr(error, "__notes__", ()):
                told.add_note(note)
            raise told from error

    def _driver(
        self, info: ConnectionInfo, view: View, *, hosts: Iterable[HostRef] | None = None
    ) -> VolumeDriver:
        """The driver for one operation; its session can neither erase data nor touch a VM."""
        driver_class = registry.get_driver_class(info.driver_volume_type, prefer=self._prefer)
        return driver_class(view.restricted(info.driver_volume_type), hosts=hosts)

    def __repr__(self) -> str:
        return f"<VolumeOps on {self._session!r}>"


def _check_bool(**arguments: object) -> None:
    """Raise RequestError where an argument is neither True nor False: the text "false" would be taken for True."""
    for name, value in arguments.items():
        if not isinstance(value, bool):
            raise RequestError(f"{name} is True or False, not a value of type {type(value).__name__}")


def _find_hosts(view: View, hosts: Iterable[Name]) -> list[HostRef]:
    """The hosts that references (which cost no call), uuids or names mean."""
    if isinstance(hosts, str) or not isinstance(hosts, Iterable):
        raise RequestError(
            f"hosts is a list of hosts, or None for all, not a value of type {type(hosts).__name__}"
        )
    texts = [text_of(host, "a host") for host in hosts]
    return [HostRef(text) if is_ref(text) else migration.find_host(view, text) for text in texts]


def _was_overtaken(error: BaseException) -> bool:
    if isinstance(error, XapiError):
        return is_overtaken(error)
    return isinstance(error, AttachedMeanwhile | ChangedMeanwhile)


def _identity_of(driver: VolumeDriver, info: ConnectionInfo) -> Identity:
    """What the data says of the disk; a driver that is no subclass of ours may tell the key alone, or nothing."""
    identify = getattr(driver, "identify", None)
    if identify is not None:
        identity: Identity = identify(info.data)
        return identity
    key = str(getattr(driver, "volume_key", digest_of)(info.data))
    return Identity(places=frozenset(key.split("\n")))


def _hosts_for(view: View, vm: VM, *, will_plug: bool) -> list[HostRef] | None:
    """The host that the VM runs on; all (None) for a disk of its next start, which may be anywhere.

    A VM that HA protects may start anywhere at any time: xapi lets it have no disk that a host does not see.
    """
    if vm.is_protected and view.pool["ha_enabled"]:
        return None
    return [vm.resident_on] if will_plug and vm.resident_on is not None else None


def _take_back(undo: Undo, driver: VolumeDriver, info: ConnectionInfo, error: BaseException) -> None:
    """The disk, then the volume. Whatever fails on the way is noted on the error, and never takes its place."""
    undo.unwind(error)
    try:
        driver.rollback(info.data)
    except Exception as failure:  # noqa: BLE001  # a stranger's driver may raise anything; the first error wins
        error.add_note(f"not undone: the rollback of driver {info.driver_volume_type!r} failed: {failure!r}")


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where the disk shall go, and what is there."""

    vm: VM
    vbds: Mapping[VBDRef, Record]
    there: VBDRef | None
    """The VBD that is marked as the volume's."""
    wish: str | int | None
    """The mountpoint that the caller named."""


def _put_in(
    view: View, undo: Undo, place: _Place, vdi_ref: VDIRef, spec: VBDSpec, info: ConnectionInfo
) -> VBDRef:
    """A VBD of the VM that shows the disk: one that another tool made, that of an earlier attempt, or a new one."""
    vm, vm_vbds, there = place.vm, place.vbds, place.there
    vbd_ref = slots.find_twin(vm, vm_vbds, there, vdi_ref)
    if vbd_ref is not None:
        slots.check_position(vm_vbds[vbd_ref], place.wish)
        slots.check_mode(vm, vm_vbds[vbd_ref], spec.mode)
        slots.adopt(view, undo, vbd_ref, vm_vbds[vbd_ref], spec.other_config)
    else:
        in_use.check_not_in_use(view, vdi_ref, info, vm=vm, mode=spec.mode)
        if there is None or not _still_there(view, there, vdi_ref):
            return slots.put_in(view, undo, vm, vdi_ref, spec)
        vbd_ref = there
        slots.check_mode(vm, vm_vbds[vbd_ref], spec.mode)
        slots.take_over(view, undo, vbd_ref, vm_vbds[vbd_ref], info)
    if spec.bootable:
        slots.make_bootable(view, undo, vbd_ref, vm_vbds[vbd_ref])
    return vbd_ref


def _still_there(view: View, vbd_ref: VBDRef, vdi_ref: VDIRef) -> bool:
    """Whether the VBD of an earlier attempt shows the disk; where the record of its disk has gone, it is destroyed.

    Raises WrongVolume where it has a disk, and another one: somebody moved the data, and knows where it is.
    """
    its_vdi = view.record("VBD", vbd_ref)["VDI"]
    if its_vdi == vdi_ref:
        return True
    view.read({"VDI": [its_vdi]})
    other = view.known("VDI", its_vdi)
    if other is not None:
        expected = storage.describe(view.record("VDI", vdi_ref))
        raise WrongVolume(expected, found=f"in its slot on the VM {storage.describe(other)}")
    destroy_vbd(view, vbd_ref)
    return False


def _shown_on(view: View, vdi_ref: str, hosts: Iterable[HostRef] | None) -> set[HostRef]:
    """The hosts on which the disk is needed: those asked for; for all (None), those that could be plugged."""
    if hosts is not None:
        return set(hosts)
    pbds = storage.known_pbds(view, SRRef(view.record("VDI", vdi_ref)["SR"]))
    return {host for host, (_, pbd) in pbds.items() if pbd["currently_attached"]}


def _check_plugged(view: View, sr_ref: SRRef, hosts: set[HostRef], what: str) -> None:
    """Raise ChangedMeanwhile where another process, which saw no VBD of ours yet, has unplugged what shows the disk.

    That one looked for VBDs and then unplugged. We made our VBD and now look for what is plugged, so of the two at
    least one sees the other.
    """
    for find in (storage.known_pbds, storage.find_pbds):  # one that another process has made is not known yet
        pbds = find(view, sr_ref)
        if all(host in pbds and pbds[host][1]["currently_attached"] for host in hosts):
            return
    raise ChangedMeanwhile(f"the SR of {what}", what="another process unplugged it")


@contextmanager
def _telling_what_ha_lacks(view: View, vm: VM, vdi_ref: str, hosts: set[HostRef]) -> Iterator[None]:
    """Translate xapi's refusal to give a VM that HA protects a disk which not every host has.

    Raises ChangedMeanwhile, and the attach is tried again, where another process has unplugged the disk's SR on one of
    these hosts, on which it was plugged. Raises HostNotReady, which names the hosts, where it never was.
    """
    try:
        yield
    except XapiError as refusal:
        if refusal.code != _NOT_ON_EVERY_HOST:
            raise
        sr_ref = SRRef(view.record("VDI", vdi_ref)["SR"])
        view.read({"SR": [sr_ref]}, whole=["host"])
        pbds = storage.find_pbds(view, sr_ref)
        without = {*view.hosts} - {host for host, (_, pbd) in pbds.items() if pbd["currently_attached"]}
        sr = view.record("SR", sr_ref)
        if sr["shared"] and (not without or without & hosts):
            what = f"another process unplugged SR {sr['name_label']}"
            raise ChangedMeanwhile(f"attach to VM {vm}", what=what) from refusal
        names = ", ".join(sorted(view.record("host", host)["name_label"] for host in without or hosts))
        reason = "is not plugged there" if sr["shared"] else "is not shared"
        problem = f"HA may start VM {vm} there, and SR {sr['name_label']} {reason}"
        raise HostNotReady(names, problem=problem) from refusal


def _has_started(view: View, vm: VM) -> bool:
    """Whether the VM, which was halted, runs now. Raises ChangedMeanwhile while it starts: it has listed its slots."""
    now = view.record("VM", vm.ref)
    if is_starting(now):
        raise ChangedMeanwhile(f"attach to VM {vm}", what="the VM began to start")
    return bool(now["power_state"] == "Running")


def _checked(view: View, volume: Identity, attachment: Attachment) -> Attachment:
    """The attachment, if its disk is the volume by all that can be proved. Raises WrongVolume."""
    vdi = view.record("VDI", attachment.vdi_ref)
    volume.check(vdi_uuid=vdi["uuid"], scsi_id=vdi["sm_config"].get("SCSIid"))
    return attachment


def _read_shown(view: View, vdi: Record, refs: Mapping[str, Iterable[str]] = FrozenMap({})) -> None:
    """Read the disk's SR and its PBDs anew, and these objects with them, in one call."""
    pbd_refs = [ref for ref, pbd in view.remembered("PBD").items() if pbd["SR"] == vdi["SR"]]
    view.read({"SR": [vdi["SR"]], "PBD": pbd_refs, **refs})
    view.record("SR", vdi["SR"])


def _read_back(view: View, vm: VM, vbd_ref: VBDRef, vdi_ref: str) -> Attachment:
    """What there is now, in one call; HANDLE_INVALID when another process took the disk away meanwhile."""
    _read_shown(view, view.record("VDI", vdi_ref), {"VBD": [vbd_ref], "VDI": [vdi_ref], "VM": [vm.ref]})
    return listing.attachment(view, vm, vbd_ref)
