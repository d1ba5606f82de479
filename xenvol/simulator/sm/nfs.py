"""SR type ``nfs``: a directory of an export, named after the SR; with sm_config:nosubdir the export itself."""

from __future__ import annotations

import posixpath
from typing import ClassVar

from xenvol.simulator.sm import nfsclient
from xenvol.simulator.sm.base import SMFailure
from xenvol.simulator.sm.filebase import SharedFileDriver, sr_uuids
from xenvol.simulator.sm.mounts import MOUNT_BASE
from xenvol.simulator.sm.xmlout import Tree, pretty

_PROBE_VERSION = "probeversion"
_CREATE = (88, "remote directory creation error is {number}")


class NFSSR(SharedFileDriver):
    type: ClassVar[str] = "nfs"

    def load(self) -> None:
        if "server" not in self.config:
            raise SMFailure(102)
        nfsclient.validated_version(self.config.get("nfsversion"))

    def probe(self) -> str:
        nfsclient.check_listening(self, self.server)
        self._check_serverpath(with_exports=True)
        point = f"{MOUNT_BASE}/probe"
        self._mount(self.config["serverpath"], point)
        try:
            return self._srlist(point)
        finally:
            self.unmount(point)

    def create(self, size: int) -> None:
        nfsclient.check_listening(self, self.server)
        self._check_serverpath(with_exports=True)
        if self.is_mounted():
            raise SMFailure(75)
        self._mount(self.config["serverpath"], self.path)
        try:
            if not self._has_no_subdirectory:
                self.make_sr_directory(self.directory, _CREATE)
        finally:
            self.unmount(self.path)

    def attach(self) -> None:
        if self.is_mounted():
            return
        self._check_serverpath(with_exports=False)
        nfsclient.check_listening(self, self.server)
        self._mount(self._remote_directory, self.path)
        try:
            self.check_shared()
        except SMFailure:
            self.unmount(self.path)
            raise

    def detach(self) -> None:
        if not self.is_mounted():
            return
        try:
            self.unmount(self.path)
        except OSError as error:
            raise SMFailure(74, f"rmdir failed with error '{error.strerror}'") from error

    def delete(self) -> None:
        super().delete()
        self._mount(self.config["serverpath"], self.path)
        try:
            if not self._has_no_subdirectory and self.directory.directory(self.sr.uuid) is not None:
                self.directory.remove(self.sr.uuid)
        except OSError as error:
            raise SMFailure(76) from error
        finally:
            self.unmount(self.path)

    @property
    def server(self) -> str:
        return self.config["server"]

    @property
    def _has_no_subdirectory(self) -> bool:
        return self.sr.sm_config.get("nosubdir") == "true"

    @property
    def _remote_directory(self) -> str:
        return posixpath.join(self.config["serverpath"], "" if self._has_no_subdirectory else self.sr.uuid)

    @property
    def _version(self) -> str:
        """Return the NFS version: the server's first one in a probe for versions, else the configured one."""
        if _PROBE_VERSION in self.config:
            return nfsclient.supported_versions(self, self.server)[0]
        return nfsclient.validated_version(self.config.get("nfsversion"))

    def _check_serverpath(self, *, with_exports: bool) -> None:
        if "serverpath" not in self.config:
            output = nfsclient.exports_xml(self, self.server) if with_exports else ""
            raise SMFailure(101, output=output)

    def _mount(self, remote: str, point: str) -> None:
        try:
            version = self._version
            if version[:1] not in nfsclient.supported_versions(self, self.server):
                raise nfsclient.NoVersions(f"Unsupported NFS version: {version}")
        except nfsclient.NoVersions as error:
            raise SMFailure(72, str(error)) from error
        options = self.config.get("options", "")
        try:
            nfsclient.mount(self, self.server, remote, point, options=options)
        except nfsclient.MountRefused as error:
            raise SMFailure(73, str(error)) from error

    def _srlist(self, point: str) -> str:
        directory = self.mounts.directory(point)
        found: list[Tree] = (
            [("SR", [("UUID", sr_uuid)]) for sr_uuid in sr_uuids(directory)] if directory else []
        )
        if _PROBE_VERSION in self.config:
            versions: list[Tree] = [
                ("Version", version) for version in nfsclient.supported_versions(self, self.server)
            ]
            found.append(("SupportedVersions", versions))
        return pretty("SRlist", found)
