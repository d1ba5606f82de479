"""Disks as files in a directory: create, resize, snapshot, clone, delete, for every file-based SR type.

`FileDriver` and its subclasses provide the directory. The behaviour was seen in the traces sm/21, sm/22 and
sm/24 (docs/background/recordings.md, findings on file and nfs).
"""

from __future__ import annotations

import uuid
from pathlib import Path

from xenvol.simulator.sm.base import NOT_IMPLEMENTED, SMFailure, VDIInfo, VDISpec
from xenvol.simulator.sm.filesystem import Directory, File
from xenvol.simulator.sm.mounteddirectory import MountedDirectory
from xenvol.simulator.sm.scanning import SR_SCAN, is_uuid
from xenvol.simulator.sm.sparse import sparse_copy
from xenvol.simulator.sm.vhd import MAX_CHAIN, Vhd, data_blocks, validated

_RETRIES_TAKE = 10.0
"""Seconds for which a driver looks for a missing disk (trace sm/21#82)."""
_REPAIR_TAKES = 19.0
"""Seconds that vhd-util tries to read a broken VHD (trace sm/21#73)."""


class DiskFiles(MountedDirectory):
    def vdi_create(self, spec: VDISpec) -> VDIInfo:
        kind = spec.sm_config.get("type", "vhd")
        if kind not in ("vhd", "raw"):
            raise SMFailure(66, f"Invalid VDI type {kind}")
        directory, vdi_uuid = self.directory, str(uuid.uuid4())
        file = File(spec.virtual_size, is_sparse=True)
        if kind == "vhd":
            file = File(vhd=Vhd(validated(spec.virtual_size)))
        try:
            self.check_writable()
            directory.add(f"{vdi_uuid}.{kind}", file)
        except OSError as error:
            raise SMFailure(78, f"error {error.errno}") from error
        info = VDIInfo(
            vdi_uuid,
            vdi_uuid,
            file.virtual_size,
            file.length,
            read_only=spec.read_only,
            sharable=spec.sharable,
            name_label=spec.name_label,
            name_description=spec.name_description,
            type=spec.type,
            sm_config=_passed_through(spec) | ({"type": "raw"} if kind == "raw" else {}),
        )
        self.xapi.introduce(info)
        self.set_sizes(self.sr.virtual_allocation + info.virtual_size)
        return info

    def vdi_delete(self, uuid: str) -> None:
        """Delete the file; if it is missing, look for it for some time, and succeed (trace sm/21#88)."""
        if (found := self._find(uuid)) is None:
            self.xapi.sleep(_RETRIES_TAKE)
            return
        name, file = found
        self.directory.remove(name)
        self.set_sizes(self.sr.virtual_allocation - file.virtual_size)

    def vdi_resize(self, uuid: str, size: int) -> VDIInfo:
        _name, file = self._get(uuid)
        if file.vhd is None:
            raise SMFailure(NOT_IMPLEMENTED)
        if file.vhd.hidden:
            raise SMFailure(46, "hidden VDI")
        before = file.vhd.virtual_size
        if size < before:
            raise SMFailure(79, "shrinking not allowed")
        if size > before:
            file.vhd.virtual_size = validated(size)
            try:
                self.directory.filesystem.charge(file)
            except OSError as error:
                file.vhd.virtual_size = before
                raise SMFailure(79, "resize operation failed") from error
        info = self._info(uuid, file)
        self.xapi.update(info)
        self.set_sizes(self.sr.virtual_allocation + info.virtual_size - before)
        return info

    def vdi_snapshot(self, uuid: str) -> VDIInfo:
        return self._cut(uuid)

    def vdi_clone(self, uuid: str) -> VDIInfo:
        return self._cut(uuid)

    def vdi_attach(self, uuid: str, read_write: bool) -> None:
        self._get(uuid)

    def vdi_detach(self, uuid: str) -> None:
        """Do nothing: no file is open."""

    def vdi_file(self, uuid: str) -> Path:
        _name, file = self._get(uuid)
        return file.bytes_in(self.world.shares.new_file)

    # ---- for the SR's commands

    def disks(self) -> list[VDIInfo]:
        """Return every VHD and raw file, of any name (trace sm/21#67), except hidden VHDs without a child."""
        directory = self.directory
        files = {name: file for name in directory if (file := directory.file(name)) is not None}
        vhds = {name.removesuffix(".vhd"): file for name, file in files.items() if name.endswith(".vhd")}
        for vdi_uuid, file in vhds.items():
            if file.vhd is None:
                self.xapi.sleep(_REPAIR_TAKES)
                raise SMFailure(SR_SCAN, f"uuid={vdi_uuid}")
        raws = {name.removesuffix(".raw"): file for name, file in files.items() if name.endswith(".raw")}
        parents = {file.vhd.parent for file in vhds.values() if file.vhd and file.vhd.parent}
        return [
            self._info(vdi_uuid, file, is_parent=vdi_uuid in parents)
            for vdi_uuid, file in (vhds | raws).items()
            if not (file.vhd and file.vhd.hidden and vdi_uuid not in parents)
        ]

    # ---- inside

    def _find(self, vdi_uuid: str) -> tuple[str, File] | None:
        directory = self.directory
        for name in (f"{vdi_uuid}.vhd", f"{vdi_uuid}.raw"):
            if (file := directory.file(name)) is not None:
                return name, file
        return None

    def _get(self, vdi_uuid: str) -> tuple[str, File]:
        if (found := self._find(vdi_uuid)) is None:
            self.xapi.sleep(_RETRIES_TAKE)
            raise SMFailure(46, f"VDI {vdi_uuid} not found")
        return found

    def _info(self, vdi_uuid: str, file: File, *, is_parent: bool = False) -> VDIInfo:
        """Return a disk as a scan sees it: of the row's sm_config, only keys that the file decides change."""
        row = self.xapi.vdi(vdi_uuid) if is_uuid(vdi_uuid) else None
        sm_config = dict(row["sm_config"]) if row else {}
        sm_config.pop("vhd-parent", None)
        if file.vhd is None:
            sm_config["type"] = "raw"
        elif file.vhd.parent:
            sm_config["vhd-parent"] = file.vhd.parent
        return VDIInfo(
            vdi_uuid,
            vdi_uuid,
            file.virtual_size,
            file.length,
            managed=not (file.vhd and file.vhd.hidden),
            read_only=is_parent,
            sm_config=sm_config,
        )

    def _cut(self, vdi_uuid: str) -> VDIInfo:
        """Snapshot or clone: the disk becomes a hidden base copy with two children (trace sm/21#51-57)."""
        name, source = self._get(vdi_uuid)
        if source.vhd is None:
            raise SMFailure(NOT_IMPLEMENTED)
        if source.vhd.hidden:
            raise SMFailure(81, "hidden VDI")
        directory = self.directory
        if _depth(directory, source.vhd) >= MAX_CHAIN:
            raise SMFailure(109)
        size, length, blocks = source.virtual_size, source.length, data_blocks(source.data)
        if source.vhd.parent and blocks <= source.vhd.inherited:
            return self._cut_from_parent(source)
        base_uuid, copy_uuid = str(uuid.uuid4()), str(uuid.uuid4())
        base = File(vhd=Vhd(size, source.vhd.parent, hidden=True, own=blocks - source.vhd.inherited))
        copy = File(vhd=Vhd(size, base_uuid, inherited=blocks))
        try:
            self.check_writable()
            directory.filesystem.check_space(copy, File(vhd=Vhd(size, base_uuid)))
        except OSError as error:
            raise SMFailure(81, f"VDI clone failed error {error.errno}") from error
        directory.take_out(name)
        directory.add(f"{base_uuid}.vhd", base)
        source.vhd.parent, source.vhd.inherited = base_uuid, blocks
        directory.add(name, source)
        directory.add(f"{copy_uuid}.vhd", copy)
        leaf = self._introduce_leaf(copy_uuid, copy, source)
        self._introduce_base(base_uuid, base)
        if (row := self.xapi.vdi(vdi_uuid)) is not None:
            sm_config = {**row["sm_config"], "vhd-parent": base_uuid}
            read_only = row["read_only"]
            self.xapi.update(
                VDIInfo(vdi_uuid, vdi_uuid, size, length, read_only=read_only, sm_config=sm_config)
            )
        self.set_sizes(self.sr.virtual_allocation + size)
        return leaf

    def _cut_from_parent(self, source: File) -> VDIInfo:
        """Snapshot or clone a disk without data of its own: its parent gets one more child (trace sm/21#55)."""
        assert source.vhd is not None, "only VHDs have parents"
        copy_uuid = str(uuid.uuid4())
        copy = File(vhd=Vhd(source.virtual_size, source.vhd.parent, inherited=source.vhd.inherited))
        try:
            self.check_writable()
            self.directory.add(f"{copy_uuid}.vhd", copy)
        except OSError as error:
            raise SMFailure(81, f"VDI clone failed error {error.errno}") from error
        leaf = self._introduce_leaf(copy_uuid, copy, source)
        self.set_sizes(self.sr.virtual_allocation + source.virtual_size)
        return leaf

    def _introduce_leaf(self, copy_uuid: str, copy: File, source: File) -> VDIInfo:
        assert copy.vhd is not None, "only VHDs are copied"
        assert copy.vhd.parent is not None, "a copy has a parent"
        if source.data is not None:
            copy.data = sparse_copy(source.data, self.world.shares.new_file(copy.virtual_size))
        _log(self.directory)
        sm_config = {"vhd-parent": copy.vhd.parent}
        leaf = VDIInfo(copy_uuid, copy_uuid, copy.virtual_size, copy.length, sm_config=sm_config)
        self.xapi.introduce(leaf)
        return leaf

    def _introduce_base(self, base_uuid: str, base: File) -> None:
        assert base.vhd is not None, "only VHDs are cut"
        info = VDIInfo(
            base_uuid,
            base_uuid,
            base.virtual_size,
            base.length,
            managed=False,
            read_only=True,
            name_label="base copy",
            sm_config={"vhd-parent": base.vhd.parent} if base.vhd.parent else {},
        )
        self.xapi.introduce(info)


def _passed_through(spec: VDISpec) -> dict[str, str]:
    """Return the caller's sm_config keys that a file driver keeps (sm/VDI.py, SM_CONFIG_PASS_THROUGH_FIELDS)."""
    return {key: spec.sm_config[key] for key in ("base_mirror", "key_hash") if spec.sm_config.get(key)}


def _depth(directory: Directory, vhd: Vhd) -> int:
    depth = 1
    while vhd.parent and (parent := directory.file(f"{vhd.parent}.vhd")) and parent.vhd:
        vhd, depth = parent.vhd, depth + 1
    return depth


def _log(directory: Directory) -> None:
    """Note the snapshot or clone in a file beside the disks, as drivers do; not if the disk is full."""
    before = directory.file("filelog.txt")
    size = (before.length if before else 0) + 476
    if directory.filesystem.free >= size:
        directory.add_file("filelog.txt", size)
