"""Find the SR and the VDI that the caller names, and check that they suit, before xenvol makes anything."""

from __future__ import annotations

from xenvol.errors import VolumeInUse, XapiError
from xenvol.images.errors import DiskNotSuited, ImageTooLarge, UnknownDisk
from xenvol.pool.marks import CONNECTED
from xenvol.pool.transfer_mark import check_is_finished, check_is_whole
from xenvol.pool.view import Record, View, is_gone
from xenvol.session.refs import SRRef, VDIRef, is_ref, is_uuid
from xenvol.storage import is_lun_per_vdi
from xenvol.storage.srtypes import sr_type_of

DISKS = frozenset({"user", "system", "ephemeral"})
"""The types of VDIs that are disks of VMs. Other types hold a VM's memory, or belong to the pool."""


def get_sr(view: View, name: str) -> tuple[SRRef, Record]:
    """Return an SR by reference, uuid or name. Raises UnknownDisk."""
    ref, record = _get(view, "SR", name)
    return SRRef(ref), record


def get_vdi(view: View, name: str) -> tuple[VDIRef, Record]:
    """Return a VDI by reference, uuid or name. Raises UnknownDisk."""
    ref, record = _get(view, "VDI", name)
    return VDIRef(ref), record


def _get(view: View, cls: str, name: str) -> tuple[str, Record]:
    if is_ref(name):
        try:
            return name, view.record(cls, name)
        except XapiError as error:
            if is_gone(error, cls):
                raise UnknownDisk(cls, name) from error
            raise
    found = view.find(cls, {"uuid" if is_uuid(name) else "name_label": name})
    if len(found) != 1:
        raise UnknownDisk(cls, name, candidates=[record["uuid"] for record in found.values()])
    ((ref, record),) = found.items()
    return ref, record


def check_takes_disks(sr_rec: Record) -> None:
    """Raise DiskNotSuited if no new disk can be made on the SR.

    Where a VDI is a LUN, VDI.create would hand out a LUN with data on it (docs/background/requirements.md, 0.1).
    """
    if sr_type_of(sr_rec["type"]).name == "udev":
        raise DiskNotSuited(_called(sr_rec), problem="shows a host's drives", remedy="give an SR for disks")
    if is_lun_per_vdi(sr_rec["type"]):
        raise DiskNotSuited(
            _called(sr_rec),
            problem=f"is of type {sr_rec['type']}, whose disks are existing LUNs",
            remedy="make a LUN on the array, and fill the VDI that shows it (--into)",
        )


def check_fits(sr_rec: Record, image: str, *, format: str, size: int) -> None:
    """Raise DiskNotSuited or ImageTooLarge if an image of `size` bytes cannot become a disk of the SR."""
    if sr_rec["content_type"] == "iso":
        if format != "iso":
            problem = f"is an ISO library, and {image} is {format}, not an ISO image"
            raise DiskNotSuited(_called(sr_rec), problem=problem, remedy="give an SR for disks")
    elif (limit := sr_type_of(sr_rec["type"]).max_size) is not None and size > limit:
        raise ImageTooLarge(image, size=size, limit=limit, what="a disk of an SR")


def check_may_be_overwritten(view: View, vdi_rec: Record) -> None:
    """Raise DiskNotSuited if the disk must not be overwritten, VolumeInUse if it is in use, HalfWrittenDisk if it is
    the unfinished disk of another import.

    A disk that is half written over may be: this is how it becomes whole again.
    """
    check_is_finished(vdi_rec)
    called = f"VDI {vdi_rec['uuid']}"
    for is_so, problem in (
        (vdi_rec["is_a_snapshot"], "is a snapshot"),
        (vdi_rec["read_only"], "is read-only"),
        (not vdi_rec["managed"], "is not managed: other disks are built on it"),
        (vdi_rec["type"] not in DISKS, f"is of type {vdi_rec['type']}, and not a disk of a VM"),
        (CONNECTED in vdi_rec["other_config"], "is connected without a VM"),
    ):
        if is_so:
            raise DiskNotSuited(called, problem=problem, remedy="give a disk that is not in use")
    if holders := holders_of(view, vdi_rec):
        raise VolumeInUse(vdi_rec["uuid"], users=holders, is_to_go=True)


def _called(sr_rec: Record) -> str:
    return f"SR {sr_rec['name_label']} ({sr_rec['uuid']})"


def check_may_be_read(view: View, vdi_rec: Record, sr_rec: Record, *, in_use: bool) -> None:
    """Raise HalfWrittenDisk; DiskNotSuited if the disk is hidden, or in use without a way to snapshot it."""
    check_is_whole(vdi_rec)
    called = f"VDI {vdi_rec['uuid']}"
    if not vdi_rec["managed"]:
        remedy = "export the disk, or the snapshot, that is built on it"
        raise DiskNotSuited(called, problem="is not managed", remedy=remedy)
    if not in_use:
        return
    driver = view.driver_of(sr_rec["type"])
    features = set() if driver is None else set(driver["features"])
    if "VDI_SNAPSHOT" not in features or vdi_rec["sm_config"].get("type") == "raw":
        kind = "a raw disk" if "VDI_SNAPSHOT" in features else f"of an SR of type {sr_rec['type']}"
        whose = ", ".join(writers_of(view, vdi_rec))
        raise DiskNotSuited(
            called,
            problem=f"is {kind}, which cannot be snapshotted, and {whose} writes to it",
            remedy="detach it, or shut the VM down, until the export has ended",
        )


def holders_of(view: View, vdi_rec: Record) -> list[str]:
    """Return the names of the VMs that have the disk; of a control domain only while the disk is plugged."""
    vbds = _vbds(view, vdi_rec)
    return _vms(view, [vbd for vbd in vbds if vbd["currently_attached"] or not _is_transfers(view, vbd)])


def writers_of(view: View, vdi_rec: Record) -> list[str]:
    """Return the names of the VMs that may write to the disk now, and whether it is connected without a VM."""
    plugged = [vbd for vbd in _vbds(view, vdi_rec) if vbd["currently_attached"] and vbd["mode"] == "RW"]
    return [
        *_vms(view, plugged),
        *(["a client without a VM"] if CONNECTED in vdi_rec["other_config"] else []),
    ]


def _vbds(view: View, vdi_rec: Record) -> list[Record]:
    """Return the disk's VBDs on existing VMs."""
    if not vdi_rec["VBDs"]:
        return []
    view.read({"VBD": vdi_rec["VBDs"]})
    vbds = view.known_of("VBD", vdi_rec["VBDs"]).values()
    view.read({"VM": {vbd["VM"] for vbd in vbds}})
    return [vbd for vbd in vbds if view.known("VM", vbd["VM"]) is not None]


def _is_transfers(view: View, vbd: Record) -> bool:
    """Return whether the VBD is on a control domain: then it belongs to a transfer, which ends."""
    return bool(view.record("VM", vbd["VM"])["is_control_domain"])


def _vms(view: View, vbds: list[Record]) -> list[str]:
    return [f"VM {view.record('VM', vbd['VM'])['name_label']}" for vbd in vbds]
