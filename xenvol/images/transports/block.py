"""A VBD on the VM in which this process runs: plugged, written as a block device, flushed, unplugged.

xenvol writes only to a device that is certainly this disk's. After the plug it reads the VBD again: no other disk of
the VM has the same device (xen-api issue 2963), the device was not there before, and it has the disk's size.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from xenvol.attaching.vbd import plug_vbd
from xenvol.attaching.vm import VM
from xenvol.errors import XapiError, XapiUnreachable
from xenvol.images.disk_image import DiskImage, Piece
from xenvol.images.errors import TargetError
from xenvol.images.transports.base import TIMEOUTS, Timeouts, Transport
from xenvol.images.transports.device import Device, open_device
from xenvol.images.transports.tasks import remove_vbd
from xenvol.pool.changes import make
from xenvol.pool.transfer_mark import Attempt
from xenvol.pool.undo import Undo
from xenvol.pool.view import View
from xenvol.session.refs import VBDRef, VDIRef

DEV: Final = Path("/dev")
_BUSY: Final = frozenset(
    {"DEVICE_DETACH_REJECTED", "DEVICE_DETACH_TIMEOUT", "OTHER_OPERATION_IN_PROGRESS", "VDI_IN_USE"}
)
"""Refusals of an unplug that pass after a moment: udev reads a disk that was written when it is closed."""


class BlockTransport(Transport):
    """Filling costs six calls: the VDI, VBD.create, plug, the VM's VBDs, unplug, destroy."""

    name = "block"

    def __init__(
        self, view: View, vm: VM, attempt: Attempt, *, dev: Path = DEV, timeouts: Timeouts = TIMEOUTS
    ) -> None:
        self._view = view
        self._vm = vm
        self._attempt = attempt
        self._dev = dev
        self._timeouts = timeouts

    def fill(self, vdi_ref: VDIRef, pieces: Iterable[Piece]) -> None:
        """As `Transport.fill`. Raises TargetError if the device is not one, or is in use."""
        with self._plugged(vdi_ref, "RW") as path, self._open(path, vdi_ref, writes=True) as device:
            device.write(pieces)

    @contextmanager
    def contents(self, vdi_ref: VDIRef) -> Iterator[DiskImage]:
        """As `Transport.contents`. Raises TargetError if the device is not one."""
        mode: Literal["RO", "RW"] = "RW" if self._vm.is_hvm else "RO"  # DISK_VBD_MUST_BE_READWRITE_FOR_HVM
        with self._plugged(vdi_ref, mode) as path, self._open(path, vdi_ref, writes=False) as device:
            yield device

    @contextmanager
    def _open(self, path: Path, vdi_ref: VDIRef, *, writes: bool) -> Iterator[Device]:
        """Open the device when it has the disk's size, which may come a moment after its name."""
        size, what = self._size(vdi_ref), self._name(vdi_ref)
        for is_last in (False, True):
            with open_device(path, writes=writes, what=what, may_be_file=self._dev != DEV) as device:
                if self._is_its_size(device.size, size):
                    device.limit(size)
                    yield device
                    return
                found = device.size
            if not is_last:
                self._timeouts.poll(lambda: self._is_its_size(_size_of(path), size), self._timeouts.device)
        raise TargetError(
            str(path), problem=f"it has {found} bytes, and {what} has {size}; nothing was written"
        )

    def _is_its_size(self, found: int, size: int) -> bool:
        """Return whether the size fits. A guest sees the disk's size; a control domain may see whole extents (LVM)."""
        return found >= size if self._is_control_domain else found == size

    @contextmanager
    def _plugged(self, vdi_ref: VDIRef, mode: Literal["RO", "RW"]) -> Iterator[Path]:
        undo = Undo()
        there_before = _names_in(self._dev)
        try:
            vbd_ref = self._create_vbd(undo, vdi_ref, mode)
            plug_vbd(self._view, vbd_ref)
            yield self._device_of(vbd_ref, vdi_ref, there_before)
            self._let_go(vbd_ref)
        except BaseException as error:
            undo.unwind(error)
            raise

    def _create_vbd(self, undo: Undo, vdi_ref: VDIRef, mode: str) -> VBDRef:
        record = {
            "VM": self._vm.ref,
            "VDI": vdi_ref,
            "userdevice": "autodetect",
            "bootable": False,
            "mode": mode,
            "type": "Disk",
            "unpluggable": True,
            "empty": False,
            "other_config": self._attempt.mark,
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }

        def look() -> VBDRef | None:
            found = self._view.find("VBD", {"VM": self._vm.ref, "VDI": vdi_ref})
            return next((VBDRef(ref) for ref, vbd in found.items() if self._attempt.has_marked(vbd)), None)

        description = f"created a VBD of {self._name(vdi_ref)} on VM {self._vm}"

        def inverse(_: View, ref: VBDRef) -> None:
            self._let_go(ref)

        return make(self._view, undo, description, ("VBD.create", record), look=look, inverse=inverse)

    def _device_of(self, vbd_ref: VBDRef, vdi_ref: VDIRef, there_before: frozenset[str]) -> Path:
        """Return the device that is certainly the disk's, when it is there. Raises TargetError."""
        plugged = self._view.find("VBD", {"VM": self._vm.ref, "currently_attached": True})
        what = self._name(vdi_ref)
        vbd = plugged.get(vbd_ref)
        if vbd is None or vbd["VDI"] != vdi_ref or vbd["VM"] != self._vm.ref:
            raise TargetError(
                what, problem=f"its VBD on VM {self._vm} is not plugged any more, or has another disk"
            )
        device = str(vbd["device"])
        if not device or PurePosixPath(device).is_absolute() or ".." in PurePosixPath(device).parts:
            raise TargetError(
                what, problem=f"it was plugged as {device!r}, which is not the name of a device"
            )
        same = {ref: other for ref, other in plugged.items() if other["device"] == device and ref != vbd_ref}
        if any(other["VDI"] != vdi_ref for other in same.values()):
            raise TargetError(
                what, problem=f"VM {self._vm} has another disk at {device}, too; detach one of the two"
            )
        if device in there_before and not same and not self._is_control_domain:
            raise TargetError(
                what,
                problem=f"it was plugged as {device}, and {self._dev / device} existed before: this machine is not "
                f"VM {self._vm}, or has another disk there",
            )
        path = self._dev / device
        if not self._timeouts.poll(path.exists, self._timeouts.device):
            raise TargetError(what, problem=f"it was plugged as {device}, and {path} did not appear")
        return path

    def _let_go(self, vbd_ref: VBDRef) -> None:
        """Unplug and destroy the VBD. Retries while the device is busy; retries once after another error."""
        last: list[XapiError | XapiUnreachable] = []

        def is_gone() -> bool:
            try:
                remove_vbd(self._view, vbd_ref)
            except (XapiError, XapiUnreachable) as error:
                is_busy = isinstance(error, XapiError) and error.code in _BUSY
                if last and not is_busy:
                    raise
                last.append(error)
                return False
            return True

        if not self._timeouts.poll(is_gone, self._timeouts.device):
            error = last[-1]
            error.add_note("a program on this machine holds the disk's device; the VBD has xenvol's mark")
            raise error

    @property
    def _is_control_domain(self) -> bool:
        return bool(self._view.record("VM", self._vm.ref)["is_control_domain"])

    def _name(self, vdi_ref: VDIRef) -> str:
        return f"VDI {self._view.record('VDI', vdi_ref)['uuid']}"

    def _size(self, vdi_ref: VDIRef) -> int:
        return int(self._view.record("VDI", vdi_ref)["virtual_size"])


def _names_in(directory: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(directory))
    except OSError:
        return frozenset()


def _size_of(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)
