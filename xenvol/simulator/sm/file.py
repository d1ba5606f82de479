"""SR type ``file``: a local directory, bind-mounted; nothing in it names the SR (docs/background/recordings.md)."""

from __future__ import annotations

from typing import ClassVar

from xenvol.simulator.sm.base import SMFailure
from xenvol.simulator.sm.filebase import FileDriver

_CREATION = 61


class FileSR(FileDriver):
    type: ClassVar[str] = "file"

    @property
    def location(self) -> str:
        return self.config["location"]

    def load(self) -> None:
        if not self.config.get("location"):
            raise SMFailure(94)

    def create(self, size: int) -> None:
        """Make the directory; every problem with it is one fault without a reason (trace sm/21#5)."""
        above, _, _name = self.location.rstrip("/").rpartition("/")
        directory = self.mounts.directory(self.location)
        parent = self.mounts.directory(above or "/")
        if (directory is not None and len(directory)) or (directory is None and parent is None):
            raise SMFailure(_CREATION)
        if directory is None and parent is not None:
            try:
                parent.make_directory(_name)
            except OSError as error:
                raise SMFailure(_CREATION) from error

    def attach(self) -> None:
        if self.is_mounted():
            return
        if (directory := self.mounts.directory(self.location)) is None:
            raise SMFailure(_CREATION, "fail to mount FileSR. Errno is 32")
        self.mounts.mount(self.mount_point, directory)

    def detach(self) -> None:
        """Unmount; a bare mount point with files in it cannot be removed: then the SR is "in use" (trace sm/21#133)."""
        if not self.is_mounted():
            return
        try:
            self.unmount(self.mount_point)
        except OSError as error:
            raise SMFailure(16, str(error)) from error
