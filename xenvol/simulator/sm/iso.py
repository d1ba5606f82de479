"""SR type ``iso``: CD images on NFS, on SMB or in a local directory; a scan finds them, a plug does not."""

from __future__ import annotations

import re
import time
import uuid
from pathlib import Path
from typing import ClassVar

from xenvol.simulator.sm import nfsclient
from xenvol.simulator.sm.base import SMFailure, VDIInfo, VDISpec
from xenvol.simulator.sm.filesystem import Directory, File
from xenvol.simulator.sm.mounteddirectory import MountedDirectory
from xenvol.simulator.sm.mounts import MOUNT_BASE
from xenvol.simulator.sm.scanning import SR_SCAN, scan_for
from xenvol.simulator.sm.smbclient import find_share, split_location

_IMAGE = re.compile(r"\.(iso|img)$", re.IGNORECASE)
_NAMED_BY_UUID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(iso|img)", re.IGNORECASE)
_PATH = re.compile(r"[a-z0-9.-]+\.(iso|img)", re.IGNORECASE)


class ISOSR(MountedDirectory):
    type: ClassVar[str] = "iso"

    def load(self) -> None:
        if "location" not in self.config:
            raise SMFailure(94)
        if not self._is_local and "type" in self.config:
            self._check_location()
        nfsclient.validated_version(self.config.get("nfsversion"))

    @property
    def mount_point(self) -> str:
        return self.config["location"].rstrip("/") if self._is_local else f"{MOUNT_BASE}/{self.sr.uuid}"

    @property
    def path(self) -> str:
        below = self.config.get("iso_path", "").strip("/")
        return f"{self.mount_point}/{below}" if below else self.mount_point

    def is_mounted(self) -> bool:
        return self._is_local or self.mounts.is_mounted(self.mount_point)

    # ---- the SR

    def create(self, size: int) -> None:
        self.attach()
        if "type" in self.config:
            self.xapi.set_sr(sm_config={**self.sr.sm_config, "iso_type": self.config["type"]})
        self.detach()

    def delete(self) -> None:
        """Do nothing: the driver does not own the images."""

    def attach(self) -> None:
        if self._is_local:
            if self.mounts.find(self.config["location"]) is None:
                raise SMFailure(226)
        elif not self.is_mounted():
            if self._protocol == "nfs_iso":
                self._mount_nfs()
            else:
                self._mount_smb()

    def detach(self) -> None:
        if not self._is_local and self.is_mounted():
            self.mounts.unmount(self.mount_point)

    def after_master_attach(self) -> None:
        """Do not scan: images appear with SR.scan, or with xapi's own scan half a minute later."""

    def scan(self) -> list[VDIInfo]:
        if self.mounts.directory(self.path) is None:
            raise SMFailure(47, f"no such directory {self.path}")
        if not self.is_mounted():
            raise SMFailure(47, f"directory not mounted: {self.path}")
        images = self._images()
        stat = self.stat()
        self.set_sizes(stat.physical_size)
        scan_for(SR_SCAN, self, images)
        return images

    def update(self) -> None:
        """Do nothing: the driver has no update (sm/SR.py, update)."""

    # ---- images

    def vdi_create(self, spec: VDISpec) -> VDIInfo:
        """Make a blank, writable image."""
        vdi_uuid = str(uuid.uuid4())
        name = spec.sm_config.get("path", f"{vdi_uuid}.img")
        if _PATH.match(name) is None:
            raise SMFailure(78, f'Invalid path "{name}"')
        if name in self.directory:
            raise SMFailure(43)
        try:
            self.check_writable()
            self.directory.add(name, File(spec.virtual_size, is_sparse=True))
        except OSError as error:
            raise SMFailure(78, f'could not create file: "{self.path}/{name}"') from error
        info = VDIInfo(
            vdi_uuid,
            name,
            spec.virtual_size,
            0,
            sharable=spec.sharable,
            name_label=spec.name_label,
            name_description=spec.name_description,
            type=spec.type,
            sm_config={**spec.sm_config, "created": _now()},
        )
        self.xapi.introduce(info)
        return info

    def vdi_delete(self, uuid: str) -> None:
        row = self.xapi.vdi(uuid)
        if row is None or self.directory.file(row["location"]) is None:
            return
        try:
            self.check_writable()
            self.directory.remove(row["location"])
        except OSError as error:
            raise SMFailure(80) from error

    def vdi_attach(self, uuid: str, read_write: bool) -> None:
        self._image(uuid)

    def vdi_detach(self, uuid: str) -> None:
        """Do nothing: no file is open."""

    def vdi_file(self, uuid: str) -> Path:
        return self._image(uuid).bytes_in(self.world.shares.new_file)

    # ---- inside

    @property
    def _is_local(self) -> bool:
        return "legacy_mode" in self.config

    @property
    def _protocol(self) -> str:
        """The protocol; without ``type`` it follows from the form of the location."""
        return self.config.get("type") or ("nfs_iso" if ":/" in self.config["location"] else "cifs")

    def _check_location(self) -> None:
        """Check the location: 225 without a server in it, 140 if the server's name does not resolve."""
        location = self.config["location"]
        if self.config["type"] == "cifs":
            server = split_location(location)[0] if location.startswith(("//", "\\")) else ""
        else:
            server = location.partition(":")[0] if ":" in location else ""
        if not server:
            raise SMFailure(225)
        if not self.world.resolves(server):
            raise SMFailure(140)

    def _mount_nfs(self) -> None:
        server, _, path = self.config["location"].partition(":")
        if self.config["location"].startswith("["):
            server, _, path = self.config["location"][1:].partition("]:")
        version = nfsclient.validated_version(self.config.get("nfsversion"))
        nfsclient.check_listening(self, server)
        try:
            if version[:1] not in nfsclient.supported_versions(self, server):
                raise SMFailure(72, f"Unsupported NFS version: {version}")
            options = _after_dash_o(self.config.get("options", ""))
            nfsclient.mount(self, server, path, self.mount_point, options=options)
        except nfsclient.NoVersions as error:
            raise SMFailure(nfsclient.TARGET_FAULT, str(error)) from error
        except nfsclient.MountRefused as error:
            raise SMFailure(222, str(error)) from error

    def _mount_smb(self) -> None:
        options = self.config.get("options", "").split()
        if "type" not in self.config and options[:1] != ["-o"]:
            raise SMFailure(228)
        version = self.config.get("vers", "3.0")
        if version not in ("1.0", "3.0"):
            raise SMFailure(227)
        share = find_share(self, self.config["location"], prefix="cifs")
        if share is None or "mount.cifs" in self.mounts.lacks:
            raise SMFailure(222, "mount error(13): Permission denied")
        self.mounts.mount(self.mount_point, share.filesystem.root)
        if "vers" not in self.config:
            self.xapi.pbd_device_config({"vers": version})

    def _images(self) -> list[VDIInfo]:
        """Return the images; an existing row keeps its uuid, a new one gets the uuid in its name, or a random one."""
        rows = {row["location"]: row for row in self.xapi.vdis()}
        return [
            self._info(name, file, rows[name]["uuid"] if name in rows else _uuid_for(name), name in rows)
            for name, file in _image_files(self.directory)
        ]

    def _info(self, name: str, file: File, vdi_uuid: str, is_known: bool) -> VDIInfo:
        row = self.xapi.vdi(vdi_uuid) if is_known else None
        created = (row or {}).get("sm_config", {}).get("created")
        return VDIInfo(
            vdi_uuid,
            name,
            file.length,
            file.length,
            read_only=created is None,
            name_label=None if is_known else name,
            sm_config={"created": created} if created else {},
        )

    def _image(self, vdi_uuid: str) -> File:
        row = self.xapi.vdi(vdi_uuid)
        file = self.directory.file(row["location"]) if row else None
        if file is None:
            raise SMFailure(144)
        return file


def _image_files(directory: Directory) -> list[tuple[str, File]]:
    named = ((name, directory.file(name)) for name in directory if _IMAGE.search(name))
    return [(name, file) for name, file in named if file is not None]


def _uuid_for(name: str) -> str:
    found = _NAMED_BY_UUID.match(name)
    return found[1] if found else str(uuid.uuid4())


def _now() -> str:
    return time.strftime("%Y%m%dT%H:%M:%SZ", time.gmtime())


def _after_dash_o(options: str) -> str:
    """Return the options after ``-o``, the only part of xe-mount-iso-sr's options that counts."""
    words = options.split(" ")
    return words[words.index("-o") + 1] if "-o" in words[:-1] else ""
