"""SR type ``ext``: a file system on a logical volume that fills a local disk."""

from __future__ import annotations

from typing import ClassVar

from xenvol.simulator.sm.base import SMFailure
from xenvol.simulator.sm.filebase import FileDriver
from xenvol.simulator.sm.filesystem import FileSystem
from xenvol.simulator.sm.localdisks import LocalDisks
from xenvol.simulator.sm.mounteddirectory import UNEXPECTED
from xenvol.simulator.sm.volumegroup import EXT_PREFIX, group_on, make_file_system, probe_result


class EXTSR(LocalDisks, FileDriver):
    type: ClassVar[str] = "ext"

    @property
    def group_name(self) -> str:
        return EXT_PREFIX + self.sr.uuid

    def probe(self) -> str:
        return probe_result(self.named_devices(), EXT_PREFIX)

    def create(self, size: int) -> None:
        self.check_unused()
        make_file_system(self.sr.uuid, self.existing_devices())
        self.xapi.set_sr(sm_config={**self.sr.sm_config, "devserial": self.serials()})

    def attach(self) -> None:
        if self.is_mounted():
            return
        filesystem = self._volume()
        if filesystem is None:
            raise SMFailure(52, "Unable to activate LV. Errno is 1")
        self.mounts.mount(self.mount_point, filesystem.root)
        if "device" not in self.config:
            raise SMFailure(UNEXPECTED, text="'device'")
        self.xapi.set_sr(sm_config={**self.sr.sm_config, "devserial": self.serials()})

    def detach(self) -> None:
        if not self.is_mounted():
            return
        try:
            self.unmount(self.mount_point)
        except OSError as error:
            raise SMFailure(16, str(error)) from error

    def delete(self) -> None:
        super().delete()
        for device in self.existing_devices():
            if group_on(device, self.group_name) is None:
                raise SMFailure(92, f"volume is {self.group_name}")
            device.content = None

    def _volume(self) -> FileSystem | None:
        """The SR's file system; lvm finds the volume group by name on any disk."""
        for device in self.mounts.devices.values():
            group = group_on(device, self.group_name)
            if group is not None and (volume := group.volumes.get(self.sr.uuid)) is not None:
                return volume.filesystem
        return None
