"""The facade: attach is connect and plug, detach is unplug and disconnect; what fails is taken back, newest first.

    connection_info ──parse──▶ driver ──connect_volume──▶ VDI ──VBD.create, VBD.plug──▶ Attachment

No state is kept here. What was done can be read in xapi by anyone, so every operation may be called again: attach
finds what is attached, detach what is left, whoever began it and wherever it died.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import tenacity

from xenvol import connection_info, disks, inventory, migration, mountpoint, registry, storage
from xenvol import connector as connectors
from xenvol.attachment import Attachment, Volume
from xenvol.connection_info import ConnectionInfo
from xenvol.drivers.base import VolumeDriver, digest_of
from xenvol.errors import (
    AttachedMeanwhile,
    ExtendNotSupported,
    MountpointInUse,
    UnknownVM,
    WrongVolume,
    XapiError,
    XenVolError,
)
from xenvol.frozen import FrozenMap
from xenvol.refs import HostRef, SRRef, VBDRef, VDIRef, is_ref, is_uuid
from xenvol.session import Session
from xenvol.undo import Undo
from xenvol.vbd import VBDSpec, create_vbd, destroy_vbd, plug_vbd, taken_by
from xenvol.view import View, is_gone
from xenvol.vm import VM, check_takes_disk, find_vm

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""An SR can be released by its last user just when we have found it; five times in a row is not chance."""


class VolumeOps:
    """Attach and detach volumes on one pool. Safe to use from several threads at once.

    `session` is one of `xenvol.connect`, or anything with ``.xenapi``. `prefer` maps a driver's name to the package
    that it shall come from, where several packages have one.
    """

    def __init__(self, session: Any, *, prefer: Mapping[str, str] | None = None) -> None:
        self._session = session if isinstance(session, Session) else Session(session)
        self._prefer = prefer

    # ---- attach

    def attach_volume(
        self,
        connection_info: Mapping[str, object],
        vm: str,
        mountpoint: str | int | None = None,
        *,
        hotplug: bool = True,
    ) -> Attachment:
        """Connect the volume and put it into the VM at a mountpoint; None or "auto" takes the first one free.

        `vm` is a reference, a uuid or a name. A running VM gets the disk at once, unless `hotplug` is False; a
        halted one when it starts. Idempotent: a volume that is attached there already is returned as it is.

        Raises what the request, the VM, the driver, the storage or xapi is to blame for (`xenvol.errors`); the
        pool is then as it was, or a note on the error says what could not be taken back.
        """
        info = _parse(connection_info)
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_was_overtaken),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_random(
                0, 0.2
            ),  # seconds; two that gave way to each other shall not meet again
            reraise=True,
        )
        attachment: Attachment = again(self._attach, info, vm, mountpoint, hotplug=hotplug)
        log.info(
            "volume %s is at %s of VM %s", attachment.volume_id, attachment.userdevice, attachment.vm_uuid
        )
        return attachment

    def _attach(self, info: ConnectionInfo, vm: str, wish: str | int | None, *, hotplug: bool) -> Attachment:
        view = View(self._session)
        machine = find_vm(view, vm)
        slots = disks.read_disks(view, machine)
        will_plug = hotplug and machine.power_state != "Halted"
        driver = self._driver(info, view, hosts=_hosts_for(view, machine, will_plug=will_plug))
        key = _key_of(driver, info)
        there = disks.find_volume(slots, info, key, wish)
        if there is not None and slots[there]["currently_attached"]:
            disks.check_same_place(slots[there], key)
            disks.take_over(view, there, slots[there], info)
            return _read_back(view, machine, there, slots[there]["VDI"])

        mode = "RO" if info.access_mode == "ro" else "RW"
        metrics = view.known("VM_guest_metrics", machine.guest_metrics_ref)
        check_takes_disk(machine, metrics, mode=mode, will_plug=will_plug)
        slot = wish if there is None else slots[there]["userdevice"]
        others = [vbd for vbd_ref, vbd in slots.items() if vbd_ref != there]
        userdevice = mountpoint.choose(slot, taken_by(others))

        undo = Undo()
        try:
            vdi_ref = driver.connect_volume(info.data)
            inventory.check_not_in_use(view, vdi_ref, info, vm=machine, mode=mode)
            vbd_ref = there and _still_there(view, there, vdi_ref)
            if vbd_ref is None:
                sr_ref = view.record("VDI", vdi_ref)["SR"]
                spec = VBDSpec(
                    userdevice, mode, other_config=disks.marks(info, key, sr_ref), ionice=info.ionice
                )
                vbd_ref = create_vbd(view, undo, machine, vdi_ref, spec)
            elif there is not None:
                disks.take_over(view, there, slots[there], info)
            if will_plug:
                plug_vbd(view, vbd_ref)
            attachment = _read_back(view, machine, vbd_ref, vdi_ref)
            _check_still_shown(view, attachment)
            disks.discard_if_second(view, machine, vbd_ref)
            return attachment
        except MountpointInUse as error:
            _take_back(undo, driver, info, error)
            if mountpoint.userdevice_of(wish) is None:  # somebody was faster, and we are not particular
                raise AttachedMeanwhile(str(machine)) from error
            raise
        except BaseException as error:
            _take_back(undo, driver, info, error)
            raise

    # ---- detach

    def detach_volume(
        self,
        connection_info: Mapping[str, object],
        vm: str,
        mountpoint: str | int | None = None,
        *,
        attachment_id: str | None = None,
    ) -> None:
        """Take the volume out of the VM and disconnect it. Idempotent: what is gone already is fine.

        `mountpoint`, when given, must be the one that the volume is at. `attachment_id`, when given (also in the
        connection_info), must be the one in place: else AttachmentFenced is raised and nothing touched. A detach
        goes forward: once the slot is empty it stays so, and the same call goes on from there.
        """
        info = _parse(connection_info)
        view = View(self._session)
        driver = self._driver(info, view)
        try:
            machine = find_vm(view, vm)
        except UnknownVM:
            if not (is_ref(vm) or is_uuid(vm)):
                raise  # a VM of another name may be the one
            log.info("VM %s is gone, and its VBDs with it; its volume is disconnected", vm)
        else:
            slots = view.find("VBD", {"VM": machine.ref})
            vbd_ref = disks.find_volume(slots, info, _key_of(driver, info), mountpoint)
            if vbd_ref is not None:
                disks.check_fence(slots[vbd_ref], attachment_id or info.attachment_id)
                disks.take_out(view, machine, vbd_ref, slots[vbd_ref])
                log.info("volume %s is out of VM %s", info.volume_id, machine)
        driver.disconnect_volume(info.data)

    def detach_all(self, vm: str) -> list[Attachment]:
        """Take every volume of xenvol's out of the VM, and release what showed them; say which they were.

        Needs no connection_info: what xenvol made says so in xapi. All are tried; the first error leaves at the end.
        """
        view = View(self._session)
        machine = find_vm(view, vm)
        vbds = inventory.read_volumes(view, machine)
        attachments = inventory.attachments(view, machine, vbds)
        first: XenVolError | None = None
        for vbd_ref, vbd in vbds.items():
            try:
                disks.take_out(view, machine, vbd_ref, vbd)
                inventory.release_disk(view, vbd)
            except XenVolError as error:
                if first is None:
                    first = error
                else:
                    first.add_note(f"and: {error}")
        if first is not None:
            raise first
        return attachments

    # ---- without a VM: boot from volume

    def connect_volume(
        self, connection_info: Mapping[str, object], *, hosts: Iterable[str] | None = None
    ) -> Volume:
        """Make the volume a VDI that a VM could start from, on these hosts (references) or on all. Idempotent.

        It stays connected until `disconnect_volume`, or until it is detached, whatever becomes of other volumes.
        """
        info = _parse(connection_info)
        view = View(self._session)
        driver = self._driver(info, view, hosts=None if hosts is None else [HostRef(host) for host in hosts])
        undo = Undo()
        try:
            vdi_ref = driver.connect_volume(info.data)
            vdi = view.record("VDI", vdi_ref)
            inventory.hold(view, undo, vdi_ref, vdi)
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

    def disconnect_volume(self, connection_info: Mapping[str, object]) -> None:
        """Make the volume gone from the pool, unless a VM has it or shares what shows it. Idempotent."""
        info = _parse(connection_info)
        self._driver(info, View(self._session)).disconnect_volume(info.data)

    def extend_volume(self, connection_info: Mapping[str, object]) -> int:
        """Make xapi see that the volume grew; return its size in bytes. Idempotent.

        A LUN's new size is only seen while no disk of its target is plugged: VolumeInUse names those that are.
        """
        info = _parse(connection_info)
        driver = self._driver(info, View(self._session))
        if not hasattr(driver, "extend_volume"):
            raise ExtendNotSupported(info.driver_volume_type)
        try:
            return driver.extend_volume(info.data)
        except BaseException as error:
            _take_back(Undo(), driver, info, error)
            raise

    # ---- looking, cleaning, moving

    def list_volumes(self, vm: str) -> list[Attachment]:
        """The volumes that xenvol has attached to the VM, in the order of their positions; four calls."""
        view = View(self._session)
        return inventory.list_volumes(view, find_vm(view, vm))

    def find_bad_volumes(self, vm: str) -> list[inventory.BadVolume]:
        """The volumes of the VM that it could not start with now, each with the reason."""
        view = View(self._session)
        return inventory.find_bad_volumes(view, find_vm(view, vm))

    def safe_cleanup_from_vdis(self, vdi_refs: Iterable[str]) -> None:
        """Release the SRs of these VDIs where nobody uses them. For error paths: raises nothing, logs instead."""
        inventory.safe_cleanup_from_vdis(View(self._session), [VDIRef(ref) for ref in vdi_refs])

    def prepare_migration(self, vm: str, host: str) -> list[str]:
        """Make the VM's volumes visible on the host that it shall move to; return the uuids of their SRs.

        `host` is a reference, a uuid or a name. Idempotent; what fails is taken back.
        """
        view = View(self._session)
        return migration.prepare(view, find_vm(view, vm), host)

    def undo_migration(self, vm: str, host: str) -> None:
        """Take back `prepare_migration`, from the data alone: spares what a VM on that host uses. Idempotent."""
        view = View(self._session)
        migration.undo(view, find_vm(view, vm), host)

    def get_connector(self, host: str | None = None) -> dict[str, Any]:
        """What the block-storage service must know of a host (of the master, unless one is named) to export to it."""
        return connectors.get_connector(View(self._session), host)

    def _driver(
        self, info: ConnectionInfo, view: View, *, hosts: Iterable[HostRef] | None = None
    ) -> VolumeDriver:
        """The driver for one operation; its session can neither erase data nor touch a VM."""
        driver_class = registry.get_driver_class(info.driver_volume_type, prefer=self._prefer)
        return driver_class(view.restricted(info.driver_volume_type), hosts=hosts)

    def __repr__(self) -> str:
        return f"<VolumeOps on {self._session!r}>"


def _parse(sent: Mapping[str, object]) -> ConnectionInfo:
    """The frozen form; multiattach, which services put beside the data, is told to the driver as well."""
    info = connection_info.parse(sent)
    if not info.multiattach:
        return info
    return dataclasses.replace(info, data=FrozenMap({**info.data, "multiattach": True}))


def _was_overtaken(error: BaseException) -> bool:
    """Whether somebody released, meanwhile, what we were about to use: then it is found, or made, anew."""
    if isinstance(error, XapiError):
        return is_gone(error, "SR", "PBD", "VDI", "VBD", "secret") or error.code == "SR_HAS_NO_PBDS"
    return isinstance(error, AttachedMeanwhile)


def _key_of(driver: VolumeDriver, info: ConnectionInfo) -> str:
    """Where the disk lies, as the driver tells it; one that is no subclass of ours may not."""
    tell = getattr(driver, "volume_key", digest_of)
    return str(tell(info.data))


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


def _still_there(view: View, vbd_ref: VBDRef, vdi_ref: VDIRef) -> VBDRef | None:
    """The VBD of an attempt that died before it plugged, unless the record of its disk has gone since.

    Raises WrongVolume where it has a disk, and another one: somebody moved the data, and knows where it is.
    """
    its_vdi = view.record("VBD", vbd_ref)["VDI"]
    if its_vdi == vdi_ref:
        return vbd_ref
    view.read({"VDI": [its_vdi]})
    other = view.known("VDI", its_vdi)
    if other is not None:
        expected = storage.describe(view.record("VDI", vdi_ref))
        raise WrongVolume(expected, found=f"in its slot on the VM {storage.describe(other)}")
    destroy_vbd(view, vbd_ref)
    return None


def _check_still_shown(view: View, attachment: Attachment) -> None:
    """Raise AttachedMeanwhile where another process, which saw no VBD of ours yet, has unplugged what shows the disk.

    That one looked for VBDs and then unplugged. We made our VBD and now look for what is plugged, so of the two at
    least one sees the other.
    """
    pbds = [pbd for pbd in view.remembered("PBD").values() if pbd["SR"] == attachment.sr_ref]
    if pbds and not any(pbd["currently_attached"] for pbd in pbds):
        raise AttachedMeanwhile(attachment.vm_uuid)


def _read_back(view: View, vm: VM, vbd_ref: VBDRef, vdi_ref: str) -> Attachment:
    """What there is now, in one call; HANDLE_INVALID when somebody took the disk away meanwhile."""
    vdi = view.record("VDI", vdi_ref)
    pbd_refs = [ref for ref, pbd in view.remembered("PBD").items() if pbd["SR"] == vdi["SR"]]
    view.read({"VBD": [vbd_ref], "VDI": [vdi_ref], "SR": [vdi["SR"]], "PBD": pbd_refs})
    return inventory.attachment(view, vm, vbd_ref)
