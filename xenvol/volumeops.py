"""The facade: attach is connect and plug, detach is unplug and disconnect; what fails is taken back, newest first.

    connection_info ──parse──▶ driver ──connect_volume──▶ VDI ──VBD.create, VBD.plug──▶ Attachment

No state is kept here. What was done can be read in xapi by anyone, so every operation may be called again: attach
finds what is attached, detach what is left, whoever began it and wherever it died.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from xenvol import connection_info, inventory, migration, mountpoint, registry, storage
from xenvol import connector as connectors
from xenvol.attachment import Attachment, Volume
from xenvol.connection_info import ENVELOPE_KEYS, ConnectionInfo
from xenvol.drivers.base import VolumeDriver
from xenvol.errors import AttachmentFenced, InvalidMountpoint, UnknownVM, XapiError
from xenvol.frozen import FrozenMap
from xenvol.refs import HostRef, SRRef, VBDRef, VDIRef
from xenvol.session import Session
from xenvol.undo import Undo
from xenvol.vbd import (
    ATTACHMENT,
    DRIVER,
    VOLUME,
    create_vbd,
    destroy_vbd,
    plug_vbd,
    taken_by,
    unplug_vbd,
    volumes_of,
)
from xenvol.view import Record, View, is_gone
from xenvol.vm import VM, check_gives_disk_back, check_takes_disk, find_vm

ATTEMPTS = (
    3  # an SR can be forgotten by its last user just when we have found it; twice in a row is bad luck enough
)


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
        driver_class = registry.get_driver_class(info.driver_volume_type, prefer=self._prefer)
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                return self._attach(info, driver_class, vm, mountpoint, hotplug=hotplug)
            except XapiError as error:
                if not attempts_left or not _was_overtaken(error):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _attach(
        self,
        info: ConnectionInfo,
        driver_class: type[VolumeDriver],
        vm: str,
        wish: str | int | None,
        *,
        hotplug: bool,
    ) -> Attachment:
        view = View(self._session)
        machine = find_vm(view, vm)
        vbds = _read_disks(view, machine)
        will_plug = hotplug and machine.power_state != "Halted"
        mode = "RO" if info.access_mode == "ro" else "RW"
        there = _find_volume(vbds, info, wish)
        if there is not None and (vbds[there]["currently_attached"] or not will_plug):
            return _attachment(view, machine, there, vbds[there]["VDI"])
        check_takes_disk(
            machine, view.known("VM_guest_metrics", machine.guest_metrics_ref), mode=mode, will_plug=will_plug
        )

        undo = Undo()
        hosts = None if machine.resident_on is None else [machine.resident_on]
        driver = driver_class(view.restricted(info.driver_volume_type), hosts=hosts)
        try:
            if there is None:
                userdevice = mountpoint.choose(wish, taken_by(vbds.values()))
                vdi_ref = driver.connect_volume(info.data)
                inventory.check_not_in_use(view, vdi_ref, info, mode=mode)
                vbd_ref = create_vbd(
                    view,
                    undo,
                    machine,
                    vdi_ref,
                    userdevice=userdevice,
                    mode=mode,
                    ionice=info.ionice,
                    other_config=_marks(info),
                )
            else:  # an attempt that died before it plugged
                vdi_ref = driver.connect_volume(info.data)
                vbd_ref = there
            if will_plug:
                plug_vbd(view, vbd_ref)
            return _attachment(view, machine, vbd_ref, vdi_ref)
        except BaseException as error:
            undo.unwind(error)
            driver.rollback(info.data)
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
        goes forward: once the VM has let go of the disk it stays out, and the same call goes on from there.
        """
        info = _parse(connection_info)
        driver_class = registry.get_driver_class(info.driver_volume_type, prefer=self._prefer)
        view = View(self._session)
        self._take_out(view, info, vm, mountpoint, attachment_id=attachment_id or info.attachment_id)
        driver = driver_class(view.restricted(info.driver_volume_type))
        driver.disconnect_volume(info.data)

    def _take_out(
        self, view: View, info: ConnectionInfo, vm: str, wish: str | int | None, *, attachment_id: str | None
    ) -> None:
        try:
            machine = find_vm(view, vm)
        except UnknownVM:
            return  # the VM is gone, and its VBDs with it; the volume is still to be disconnected
        vbds = view.find("VBD", {"VM": machine.ref})
        vbd_ref = _find_volume(vbds, info, wish)
        if vbd_ref is None:
            return
        current = vbds[vbd_ref]["other_config"].get(ATTACHMENT)
        if attachment_id is not None and attachment_id != current:
            raise AttachmentFenced(attachment_id, current=current)
        _remove(view, machine, vbd_ref, vbds[vbd_ref])

    def detach_all(self, vm: str) -> list[Attachment]:
        """Take every volume of xenvol's out of the VM, and release what showed them; say which they were.

        Needs no connection_info: what xenvol made says so in xapi.
        """
        view = View(self._session)
        machine = find_vm(view, vm)
        attachments = inventory.list_volumes(view, machine)
        for attachment in attachments:
            _remove(view, machine, attachment.vbd_ref, view.record("VBD", attachment.vbd_ref))
        for sr_ref in dict.fromkeys(attachment.sr_ref for attachment in attachments):
            storage.release_sr(view, sr_ref)
        return attachments

    # ---- without a VM: boot from volume

    def connect_volume(
        self, connection_info: Mapping[str, object], *, hosts: Iterable[str] | None = None
    ) -> Volume:
        """Make the volume a VDI that a VM could start from, on these hosts (references) or on all. Idempotent."""
        info = _parse(connection_info)
        driver_class = registry.get_driver_class(info.driver_volume_type, prefer=self._prefer)
        view = View(self._session)
        some = None if hosts is None else [HostRef(host) for host in hosts]
        driver = driver_class(view.restricted(info.driver_volume_type), hosts=some)
        try:
            vdi_ref = driver.connect_volume(info.data)
            vdi = view.record("VDI", vdi_ref)
            return Volume(
                sr_ref=SRRef(vdi["SR"]),
                sr_uuid=view.record("SR", vdi["SR"])["uuid"],
                vdi_ref=vdi_ref,
                vdi_uuid=vdi["uuid"],
                virtual_size=int(vdi["virtual_size"]),
            )
        except BaseException:
            driver.rollback(info.data)
            raise

    def disconnect_volume(self, connection_info: Mapping[str, object]) -> None:
        """Make the volume gone from the pool, unless a VM has it or shares what shows it. Idempotent."""
        info = _parse(connection_info)
        driver_class = registry.get_driver_class(info.driver_volume_type, prefer=self._prefer)
        driver_class(View(self._session).restricted(info.driver_volume_type)).disconnect_volume(info.data)

    def extend_volume(self, connection_info: Mapping[str, object]) -> int:
        """Make xapi see that the volume grew; return its size in bytes. Idempotent.

        A LUN's new size is only seen while no disk of its target is plugged: VolumeInUse names those that are.
        """
        info = _parse(connection_info)
        driver_class = registry.get_driver_class(info.driver_volume_type, prefer=self._prefer)
        driver = driver_class(View(self._session).restricted(info.driver_volume_type))
        try:
            return driver.extend_volume(info.data)
        except BaseException:
            driver.rollback(info.data)
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

    def __repr__(self) -> str:
        return f"<VolumeOps on {self._session!r}>"


def _parse(sent: Mapping[str, object]) -> ConnectionInfo:
    """The frozen form; multiattach, which services put beside the data, is told to the driver as well."""
    info = connection_info.parse(sent)
    if not info.multiattach:
        return info
    return dataclasses.replace(info, data=FrozenMap({**info.data, "multiattach": True}))


def _was_overtaken(error: XapiError) -> bool:
    """Whether somebody released, meanwhile, what we were about to use: then it is found, or made, anew."""
    return is_gone(error, "SR", "PBD", "VDI", "VBD", "secret") or error.code == "SR_HAS_NO_PBDS"


# ---- one disk of one VM


def _read_disks(view: View, vm: VM) -> dict[VBDRef, Record]:
    """The VM's VBDs; with them, in the same call, what else an attach looks at before it changes anything."""
    view.read(
        {"VBD": vm.vbd_refs, "VM_guest_metrics": [vm.guest_metrics_ref]},
        whole=["SM", "pool"] if vm.resident_on is not None else ["SM", "pool", "host"],
    )
    return {VBDRef(ref): vbd for ref in vm.vbd_refs if (vbd := view.known("VBD", ref)) is not None}


def _volume_id(info: ConnectionInfo) -> str:
    """What the VBD says that it is: the service's id, or a digest of the data where it gives none."""
    if info.volume_id is not None:
        return info.volume_id
    told = sorted((key, value) for key, value in info.data.items() if key not in ENVELOPE_KEYS)
    return f"data-{uuid.uuid5(uuid.NAMESPACE_URL, repr(told))}"


def _marks(info: ConnectionInfo) -> dict[str, str]:
    attachment_id = info.attachment_id or str(uuid.uuid4())
    return {VOLUME: _volume_id(info), ATTACHMENT: attachment_id, DRIVER: info.driver_volume_type}


def _find_volume(vbds: Mapping[Any, Record], info: ConnectionInfo, wish: str | int | None) -> VBDRef | None:
    """The VBD of this volume. Raises InvalidMountpoint when it is at another position than the one named."""
    wanted = mountpoint.userdevice_of(wish)
    for vbd_ref, vbd in volumes_of(vbds).items():
        if vbd["other_config"][VOLUME] == _volume_id(info):
            if wanted not in (None, vbd["userdevice"]):
                where = mountpoint.name_of(vbd["userdevice"])
                raise InvalidMountpoint(
                    wish, problem=f"is not where the volume is attached, which is {where}"
                )
            return vbd_ref
    return None


def _remove(view: View, vm: VM, vbd_ref: VBDRef, vbd: Record) -> None:
    """Unplug it if it is plugged, and destroy it; where it cannot be destroyed it is plugged again."""
    undo = Undo()
    try:
        if vbd["currently_attached"]:
            device = vbd["device"] or mountpoint.name_of(vbd["userdevice"])
            check_gives_disk_back(vm, device)
            unplug_vbd(view, undo, vbd_ref, device=device, vm=vm)
        destroy_vbd(view, vbd_ref)
    except BaseException as error:
        undo.unwind(error)
        raise


def _attachment(view: View, vm: VM, vbd_ref: VBDRef, vdi_ref: str) -> Attachment:
    """Read back what there is now; HANDLE_INVALID when somebody took the disk away meanwhile."""
    vdi = view.record("VDI", vdi_ref)
    view.read({"VBD": [vbd_ref], "VDI": [vdi_ref], "SR": [vdi["SR"]]})
    return inventory.attachment(view, vm, vbd_ref)
