"""A file system in a world file, read and written as plain values.

``size`` and ``used`` (bytes, or ``"10 GiB"``), ``block``, and ``files``, by path:

    "9a…/5f….vhd": {"virtual_size": "10 GiB"}         a VHD, optionally with ``parent`` and ``hidden``
    "5f….raw": {"size": "1 GiB", "sparse": true}
    "readme.txt": {"size": 12}                        for ``x.vhd`` this makes a broken VHD
    "lost+found/": {}                                 a directory

Data that guests have written is not included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xenvol.simulator.sm.filesystem import Directory, File, FileSystem
from xenvol.simulator.sm.vhd import Vhd
from xenvol.simulator.sm.worldfile import WorldError, flag, section, size_in_bytes, text

KEYS = ("size", "used", "block", "files")


def load(given: Mapping[str, Any], where: str, *, is_read_only: bool = False) -> FileSystem:
    """Make a file system from a map with checked keys; ``size`` is required."""
    if "size" not in given:
        raise WorldError(f'{where}.size: missing; write bytes, or "10 GiB"')
    size = size_in_bytes(given["size"], f"{where}.size")
    used = size_in_bytes(given.get("used", 0), f"{where}.used")
    block = size_in_bytes(given.get("block", 4096), f"{where}.block")
    filesystem = FileSystem(size, used=used, block=block)
    load_files(filesystem.root, given.get("files", {}), f"{where}.files")
    filesystem.is_read_only = is_read_only
    return filesystem


def load_files(directory: Directory, values: Any, where: str) -> None:
    for path, entry in section(values, where).items():
        place = f"{where}.{path}"
        above, _, name = path.rpartition("/")
        parent = directory.make_directory(above)
        if name:
            try:
                parent.add(name, _file(entry, place))
            except OSError as error:
                raise WorldError(f"{place}: {error.strerror}") from error
        else:
            section(entry, place, "nothing")


def as_dict(filesystem: FileSystem) -> dict[str, Any]:
    """Return what `load` would read; ``block`` only if it is not the default."""
    values: dict[str, Any] = {"size": filesystem.size, "used": filesystem.used}
    if filesystem.block != 4096:
        values["block"] = filesystem.block
    return {**values, "files": files_as_dict(filesystem.root)}


def files_as_dict(directory: Directory) -> dict[str, Any]:
    return dict(_walk(directory, ""))


def _file(values: Any, where: str) -> File:
    given = section(values, where, "size", "sparse", "virtual_size", "parent", "hidden")
    if "virtual_size" in given:
        virtual_size = size_in_bytes(given["virtual_size"], f"{where}.virtual_size")
        parent = text(given["parent"], f"{where}.parent") if "parent" in given else None
        return File(vhd=Vhd(virtual_size, parent, hidden=flag(given, "hidden", where)))
    size = size_in_bytes(given.get("size", 0), f"{where}.size")
    return File(size, is_sparse=flag(given, "sparse", where))


def _walk(directory: Directory, above: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in directory:
        file = directory.file(name)
        if file is not None:
            yield above + name, _file_as_dict(file)
            continue
        below = directory.directory(name)
        assert below is not None, "an entry that is not a file is a directory"
        if not len(below):
            yield f"{above}{name}/", {}
        yield from _walk(below, f"{above}{name}/")


def _file_as_dict(file: File) -> dict[str, Any]:
    if file.vhd is None:
        return {"size": file.length, **({"sparse": True} if file.is_sparse else {})}
    values: dict[str, Any] = {"virtual_size": file.vhd.virtual_size}
    if file.vhd.parent:
        values["parent"] = file.vhd.parent
    if file.vhd.hidden:
        values["hidden"] = True
    return values
