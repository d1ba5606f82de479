"""The facade: attach is connect and plug, detach is unplug and disconnect. A failed attach is undone, newest first.

    connection_info ──parse──▶ driver ──connect_volume──▶ VDI ──VBD.create, VBD.plug──▶ Attachment

No state is kept here. All state is in xapi, so every operation is idempotent: attach finds what is attached, and detach
finds what is left, also where another process began the work and died.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import tenacity

from xenvol.attaching import connector as connectors
from xenvol.attaching import health, in_use, listing, migration, slots
from xenvol.attaching.attachment import Attachment, Volume
from xenvol.attaching.mountpoint import userdevice_of
from xenvol.attaching.placing import (
    Place,
    check_plugged,
    checked,
    has_started,
    hosts_that_show,
    put_in,
    read_back,
    read_shown,
    translating_ha_refusal,
)
from xenvol.attaching.vbd import VBDSpec
from xenvol.attaching.vm import VM, check_takes_disk, find_vm
from xenvol.connection_data.connection_info import ConnectionInfo, keeps_secrets, parse, sealed
from xenvol.connection_data.identity import Identity
from xenvol.drivers import registry
from xenvol.drivers.base import VolumeDriver, digest_of
from xenvol.errors import (
    AttachedMeanwhile,
    ChangedMeanwhile,
    ExtendNotSupported,
    MountpointInUse,
    RequestError,
    UnknownVM,
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

ATTEMPTS = 5
"""The last user of an SR can release it just when this process has found it. Five times in a row is not chance."""


class VolumeOps:
    """Attach and detach volumes on one pool. Several threads may use one object.

    `session` is one of `xenvol.connect`, or any object with ``.xenapi``. `prefer` maps the name of a driver to the
    package to take it from, if several packages have one.
    """

    def __init__(self, session: Any, *, prefer: Mapping[str, str] | None = None) -> None:
        self._session = session if isinstance(session, Session) else Session(session)
        if prefer is not None and not isinstance(prefer, Mapping):
            raise RequestError(
                f"prefer must map names of drivers to packages; it is a {type(prefer).__name__}"
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
        """Connect the volume and attach it to the VM at `mountpoint`; None or "auto" takes the first free one.

        `vm` is a reference, a uuid or a name. A running VM gets the disk at once, unless `hotplug` is False. A halted
        VM gets it when it starts. `bootable` makes it the disk that the VM starts from, at position 0 unless a
        mountpoint is named; False does not change a disk that is in place. Idempotent: returns the attachment that is
        in place. If another tool has attached the volume without a mark, its VBD is adopted.

        Raises a XenVolError (`xenvol.errors` sorts them by blame). The pool is then as before, or a note on the error
        says what could not be undone.
        """
        _check_bool(hotplug=hotplug, bootable=bootable)
        requested = 0 if bootable and userdevice_of(mountpoint) is None else mountpoint
        attachment: Attachment = self._retried(
            "attach", self._attach, parse(connection_info), vm, requested, hotplug=hotplug, bootable=bootable
        )
        log.info(
            "volume %s is at %s of VM %s", attachment.volume_id, attachment.userdevice, attachment.vm_uuid
        )
        return attachment

    def _attach(
        self, info: ConnectionInfo, vm: Name, requested: str | int | None, *, hotplug: bool, bootable: bool
    ) -> Attachment:
        view = self._view(info)
        machine = find_vm(view, vm)
        vm_vbds = slots.read_disks(view, machine)
        will_plug = hotplug and machine.power_state != "Halted"
        hosts = _hosts_for(view, machine, will_plug=will_plug)
        driver = self._driver(info, view, hosts=hosts)
        volume = _identity_of(driver, info)
        mode = "RO" if info.access_mode == "ro" else "RW"
        marked_ref = slots.find_volume(vm_vbds, info, volume, requested)
        if marked_ref is None:
            marked_ref = slots.find_renamed(view, vm_vbds, info, volume, requested)
        if marked_ref is not None and is_plugged(vm_vbds[marked_ref]):
            slots.check_same_place(vm_vbds[marked_ref], volume)
            slots.check_mode(machine, vm_vbds[marked_ref], mode)
            return self._reuse(
                view, machine, marked_ref, vm_vbds[marked_ref], info, volume, bootable=bootable
            )

        metrics = view.known("VM_guest_metrics", machine.guest_metrics_ref)
        check_takes_disk(machine, metrics, mode=mode, will_plug=will_plug)
        userdevice = slots.choose_position(view, vm_vbds, marked_ref, requested, info, volume, driver)

        undo = Undo(hidden=view.hidden)
        try:
            vdi_ref = driver.connect_volume(info.data)
            shown_on = hosts_that_show(view, vdi_ref, hosts)
            marks = slots.marks(view, info, volume, vdi_ref)
            spec = VBDSpec(userdevice, mode, other_config=marks, ionice=info.ionice, bootable=bootable)
            with translating_ha_refusal(view, machine, vdi_ref, shown_on):
                vbd_ref = put_in(
                    view, undo, Place(machine, vm_vbds, marked_ref, requested), vdi_ref, spec, info
                )
                if will_plug:
                    slots.plug(view, undo, machine, vbd_ref, vdi_ref, vm_vbds.get(vbd_ref))
            attachment = read_back(view, machine, vbd_ref, vdi_ref)
            check_plugged(view, attachment.sr_ref, shown_on, attachment.volume_id)
            if hotplug and not attachment.is_plugged and has_started(view, machine):
                slots.plug(view, undo, machine, vbd_ref, vdi_ref, vm_vbds.get(vbd_ref))
                attachment = read_back(view, machine, vbd_ref, vdi_ref)
            slots.discard_if_second(view, machine, vbd_ref)
            return attachment
        except MountpointInUse as error:
            _take_back(undo, driver, info, error)
            if userdevice_of(requested) is None:  # another process took the position, and any other will do
                raise AttachedMeanwhile(str(machine)) from error
            raise
        except BaseException as error:
            _take_back(undo, driver, info, error)
            raise

    def _reuse(
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
        """Return the attachment that is in place, marked with the attachment id that the service gives it now."""
        undo = Undo(hidden=view.hidden)
        try:
            if bootable:
                slots.make_bootable(view, undo, vbd_ref, vbd)
            slots.take_over(view, undo, vbd_ref, vbd, info)
            attachment = checked(view, volume, read_back(view, vm, vbd_ref, vbd["VDI"]))
            if not attachment.is_plugged:
                raise ChangedMeanwhile(f"attach to VM {vm}", what="another process unplugged the disk")
            return attachment
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
        host: Name | None = None,
    ) -> None:
        """Detach the volume from the VM and disconnect it. Idempotent.

        If `mountpoint` is given, the volume must be there. If `attachment_id` is given, here or in the connection_info,
        it must be that of the attachment in place; else AttachmentFenced is raised and nothing changed. A detach that
        fails is not undone: an empty slot stays empty, and the same call completes the detach.

        `host` is for a caller that speaks for one host, by its reference, uuid or name: the source or the destination
        of a migration. If the VM is on another host, it keeps the volume whatever `attachment_id` is, and the call
        does for this volume what `undo_migration` does on `host`; the log says so. A VM that runs on no host is on the
        host of its `affinity`; without one, it is on every host.
        """
        if attachment_id is not None:  # an empty text, from a variable that is not set, would fence nothing
            attachment_id = text_of(attachment_id, "an attachment", by="its attachment_id, or None for any")
        info = parse(connection_info)
        self._retried("detach", self._detach, info, text_of(vm, "a VM"), mountpoint, attachment_id, host)

    def _detach(
        self,
        info: ConnectionInfo,
        vm: str,
        requested: str | int | None,
        attachment_id: str | None,
        for_host: Name | None,
    ) -> None:
        view = self._view(info)
        try:
            machine = find_vm(view, vm)
        except UnknownVM:
            if not (is_ref(vm) or is_uuid(vm)):
                raise  # the VM may have been renamed
            log.info("VM %s is gone, and its VBDs with it; its volume is disconnected", vm)
            return self._driver(info, view).disconnect_volume(info.data)
        spared_for = _host_without(view, machine, for_host)
        host = machine.resident_on
        driver = self._driver(info, view, hosts=None if host is None else [host])
        volume = _identity_of(driver, info)
        found = view.find("VBD", {"VM": machine.ref})
        vm_vbds = {VBDRef(ref): vbd for ref, vbd in found.items() if vbd["VDI"] != NULL_REF}
        marked_ref = slots.find_volume(vm_vbds, info, volume, requested)
        has_moved = marked_ref is not None and not volume.is_at(
            vm_vbds[marked_ref]["other_config"].get(DISK, volume.key)
        )
        vdi_refs = {vm_vbds[marked_ref]["VDI"]} if marked_ref is not None else set()
        if marked_ref is None or has_moved:
            others = {ref: vbd for ref, vbd in vm_vbds.items() if vbd["VDI"] not in vdi_refs}
            unmarked = slots.find_unmarked(view, others, info, volume, driver)
            if has_moved:
                slots.check_not_marked_as_another(machine, others, unmarked)
            vdi_refs |= unmarked
        if spared_for is not None:
            log.info("VM %s is not on host %s, and keeps volume %s", machine, for_host, info.volume_id)
            view.read({"VDI": vdi_refs})
            vdis = view.known_of("VDI", vdi_refs).values()
            return migration.leave(view, machine, spared_for, [SRRef(vdi["SR"]) for vdi in vdis])
        own_vbds = {ref: vbd for ref, vbd in vm_vbds.items() if vbd["VDI"] in vdi_refs}
        slots.check_in_no_drive(machine, own_vbds.values())
        for vbd in own_vbds.values():
            slots.check_fence(vbd, attachment_id or info.attachment_id)
            if marked_ref is None:
                slots.check_position(vbd, requested)
        for vbd_ref, vbd in own_vbds.items():
            slots.take_out(view, machine, vbd_ref, vbd)
            log.info("volume %s is detached from VM %s", info.volume_id, machine)
        if marked_ref is not None and has_moved:
            view.read({"VDI": [vm_vbds[marked_ref]["VDI"]]})
            in_use.release_disk(
                view, vm_vbds[marked_ref]
            )  # the volume has moved: release what showed it at its old place, too
        for vbd in own_vbds.values():
            view.forget("VDI", vbd["VDI"])
        driver.disconnect_volume(info.data)
        # the SR that shows the disk may be of another target than the data names
        elsewhere = [vbd for vbd in own_vbds.values() if view.known("VDI", vbd["VDI"]) is None]
        if elsewhere and not has_moved:
            view.read({"VDI": {vbd["VDI"] for vbd in elsewhere}})
            for vbd in elsewhere:
                in_use.release_disk(view, vbd)
        return None

    def detach_all(self, vm: Name, *, host: Name | None = None) -> list[Attachment]:
        """Detach every volume that xenvol attached to the VM, release what showed them, and return their attachments.

        Needs no connection_info: the marks of xenvol in xapi suffice. All are tried; then the first error is raised.
        `host` as in `detach_volume`: if the VM is on another host, this is `undo_migration`, and no attachment returns.
        """
        detached: dict[VBDRef, Attachment] = {}
        self._retried("detach all", self._detach_all, vm, host, detached, {})
        return list(detached.values())

    def _detach_all(
        self,
        vm: Name,
        for_host: Name | None,
        detached: dict[VBDRef, Attachment],
        unreleased: dict[VBDRef, Record],
    ) -> None:
        """Detach what the VM has now, and release what an earlier attempt left `unreleased`. Adds to `detached`."""
        view = View(self._session)
        machine = find_vm(view, vm)
        spared_for = _host_without(view, machine, for_host)
        if spared_for is not None:
            log.info("VM %s is not on host %s, and keeps its volumes", machine, for_host)
            return migration.undo(view, machine, spared_for)
        vbds = listing.read_volumes(view, machine)
        detached.update({each.vbd_ref: each for each in listing.attachments(view, machine, vbds)})
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
        return None

    # ---- without a VM: boot from volume

    @keeps_secrets
    def connect_volume(
        self, connection_info: Mapping[str, object], *, hosts: Iterable[Name] | None = None
    ) -> Volume:
        """Make the volume a VDI that a VM can start from, on these hosts or on all. Idempotent.

        Each of `hosts` is a reference, a uuid or a name. The volume stays connected until `disconnect_volume` or
        `detach_volume`, whatever happens to other volumes.
        """
        volume: Volume = self._retried("connect", self._connect, parse(connection_info), hosts)
        return volume

    def _connect(self, info: ConnectionInfo, hosts: Iterable[Name] | None) -> Volume:
        view = self._view(info)
        wanted = None if hosts is None else _find_hosts(view, hosts)
        driver = self._driver(info, view, hosts=wanted)
        undo = Undo(hidden=view.hidden)
        try:
            vdi_ref = driver.connect_volume(info.data)
            shown_on = hosts_that_show(view, vdi_ref, wanted)
            vdi = view.record("VDI", vdi_ref)
            in_use.hold(view, undo, vdi_ref, vdi, info)
            read_shown(view, vdi)
            check_plugged(view, SRRef(vdi["SR"]), shown_on, str(vdi_ref))
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
        """Remove the volume from the pool, unless a VM has it. Spares an SR that another disk needs. Idempotent."""
        info = parse(connection_info)
        self._retried("disconnect", lambda: self._driver(info, self._view(info)).disconnect_volume(info.data))

    @keeps_secrets
    def extend_volume(self, connection_info: Mapping[str, object]) -> int:
        """Make xapi see that the volume grew; return its size in bytes. Idempotent.

        The new size of a LUN shows only while no disk of its target is plugged. Else VolumeInUse names their users.
        """
        size: int = self._retried("extend", self._extend, parse(connection_info))
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
        """Return the volumes that xenvol has attached to the VM, in the order of their positions. Four calls."""

        def read() -> list[Attachment]:
            view = View(self._session)
            return listing.list_volumes(view, find_vm(view, vm))

        return self._retried("list", read)

    def find_bad_volumes(self, vm: Name) -> list[health.BadVolume]:
        """Return the volumes that the VM could not start with now, each with the reason."""

        def read() -> list[health.BadVolume]:
            view = View(self._session)
            return health.find_bad_volumes(view, find_vm(view, vm))

        return self._retried("find bad volumes", read)

    def safe_cleanup_from_vdis(self, vdi_refs: Iterable[str]) -> None:
        """Release the SRs of these VDIs, unless they are in use. For error paths: logs errors, and raises none."""
        if isinstance(vdi_refs, str) or not isinstance(vdi_refs, Iterable):
            log.warning(
                "no SR is released: vdi_refs must be a list of references; it is a %s",
                type(vdi_refs).__name__,
            )
            return
        refs = [
            ref for ref in vdi_refs if isinstance(ref, str)
        ]  # after a look-up that failed the caller has None
        for ref in refs:
            try:
                self._retried("clean up", self._release_vdi, VDIRef(ref))
            except XenVolError as error:
                log.warning("VDI %s: its SR could not be released: %s", ref, error)

    def _release_vdi(self, vdi_ref: VDIRef) -> None:
        in_use.release_vdi(View(self._session), vdi_ref)

    def prepare_migration(
        self, vm: Name, host: Name, connection_infos: Iterable[Mapping[str, object]] = ()
    ) -> list[str]:
        """Plug the SRs of the VM's volumes on the destination host of a migration; return the uuids of the SRs.

        `host` is a reference, a uuid or a name. `connection_infos` say how that host reaches the volumes, since many
        arrays give each host another target. Without one, it reaches the volume as the other hosts do. Idempotent. A
        failure is undone.
        """
        if isinstance(connection_infos, str | Mapping) or not isinstance(connection_infos, Iterable):
            kind = type(connection_infos).__name__
            raise RequestError(f"connection_infos must be a list of connection_infos; it is a {kind}")
        connection_infos = tuple(map(sealed, connection_infos))
        with scrubbing(secrets_in(connection_infos)):
            infos = [parse(sent) for sent in connection_infos]
            sr_uuids: list[str] = self._retried(
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
        """Undo `prepare_migration`, also of another process. Idempotent, also while the host is down.

        Spares what a VM on that host uses or will use at its next start, and what is connected without a VM.
        """

        def undo() -> None:
            view = View(self._session)
            migration.undo(view, find_vm(view, vm), host)

        self._retried("undo a migration", undo)

    def get_connectors(self, vm: Name, *, fibre_channel: bool = False) -> list[dict[str, Any]]:
        """Return a connector for every host to which the service must export a volume for this VM, the master first.

        These are the pool's master, on which xapi works on every shared SR, and the VM's host. A VM that is halted or
        that HA protects may start anywhere, so it needs every host. `fibre_channel` as in `get_connector`.
        """
        _check_bool(fibre_channel=fibre_channel)
        view = View(self._session)
        return connectors.get_connectors(view, find_vm(view, vm), fibre_channel=fibre_channel)

    def get_connector(self, host: Name | None = None, *, fibre_channel: bool = False) -> dict[str, Any]:
        """Return what the service must know of a host to export a volume to it. None is the pool's master. One call.

        `fibre_channel` adds the names of the host's Fibre Channel ports (`wwpns`) and adapters (`wwnns`). xapi has no
        field for them, so a storage driver looks at the host's hardware: two more calls.
        """
        _check_bool(fibre_channel=fibre_channel)
        return connectors.get_connector(View(self._session), host, fibre_channel=fibre_channel)

    def _view(self, *infos: ConnectionInfo) -> View:
        """Return a view for one operation, which masks the secrets of the request in errors."""
        view = View(self._session)
        view.hide(*secrets_in(tuple((info.data, info.extra, info.qos) for info in infos)))
        return view

    def _retried(self, doing: str, operation: Callable[..., T], *args: Any, **options: Any) -> T:
        """Run an operation, and retry it from its first read if another process changed what it works on."""
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_was_overtaken),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_random(
                0, 0.2
            ),  # seconds; random, so that two processes that gave way to each other do not collide again
            reraise=True,
        )
        try:
            return again(operation, *args, **options)
        except XapiError as error:
            if not is_overtaken(error):
                raise
            changed = ChangedMeanwhile(
                doing, what=f"another process changed what it was working on ({error})"
            )
            for note in getattr(error, "__notes__", ()):
                changed.add_note(note)
            raise changed from error

    def _driver(
        self, info: ConnectionInfo, view: View, *, hosts: Iterable[HostRef] | None = None
    ) -> VolumeDriver:
        """Return a driver object for one operation, on a session that refuses to erase data or touch a VM."""
        driver_class = registry.get_driver_class(info.driver_volume_type, prefer=self._prefer)
        return driver_class(view.restricted(info.driver_volume_type), hosts=hosts)

    def __repr__(self) -> str:
        return f"<VolumeOps on {self._session!r}>"


def _check_bool(**arguments: object) -> None:
    """Raise RequestError if an argument is no bool: the text "false" would count as True."""
    for name, value in arguments.items():
        if not isinstance(value, bool):
            raise RequestError(f"{name} must be True or False; it is a {type(value).__name__}")


def _find_hosts(view: View, hosts: Iterable[Name]) -> list[HostRef]:
    """Return the references of hosts given as references, uuids or names. A reference costs no call."""
    if isinstance(hosts, str) or not isinstance(hosts, Iterable):
        raise RequestError(f"hosts must be a list of hosts, or None for all; it is a {type(hosts).__name__}")
    texts = [text_of(host, "a host") for host in hosts]
    return [HostRef(text) if is_ref(text) else migration.find_host(view, text) for text in texts]


def _host_without(view: View, vm: VM, host: Name | None) -> HostRef | None:
    """Return the host for which a detach is made if the VM is on another one, else None."""
    if host is None:
        return None
    host_ref = migration.find_host(view, host)
    return host_ref if migration.is_elsewhere(view, vm, host_ref) else None


def _was_overtaken(error: BaseException) -> bool:
    if isinstance(error, XapiError):
        return is_overtaken(error)
    return isinstance(error, AttachedMeanwhile | ChangedMeanwhile)


def _identity_of(driver: VolumeDriver, info: ConnectionInfo) -> Identity:
    """Return what the data says about the disk. A driver that is no `VolumeDriver` may lack `identify`."""
    identify = getattr(driver, "identify", None)
    if identify is not None:
        identity: Identity = identify(info.data)
        return identity
    key = str(getattr(driver, "volume_key", digest_of)(info.data))
    return Identity(places=frozenset(key.split("\n")))


def _hosts_for(view: View, vm: VM, *, will_plug: bool) -> list[HostRef] | None:
    """Return the host that the VM runs on, or None (every host) if the disk is plugged at the next start.

    None also for a VM that HA protects: xapi gives it no disk that a host does not see.
    """
    if vm.is_protected and view.pool["ha_enabled"]:
        return None
    return [vm.resident_on] if will_plug and vm.resident_on is not None else None


def _take_back(undo: Undo, driver: VolumeDriver, info: ConnectionInfo, error: BaseException) -> None:
    """Undo the attach, then the connect. What cannot be undone becomes a note on `error`, and never replaces it."""
    undo.unwind(error)
    try:
        driver.rollback(info.data)
    except Exception as failure:  # noqa: BLE001  # a third party's driver may raise anything; the first error wins
        error.add_note(f"not undone: the rollback of driver {info.driver_volume_type!r} failed: {failure!r}")
