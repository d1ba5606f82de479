"""Save a whole pool as bytes, and restore it as often as a test likes: faster than to build it again.

    checkpoint = xapi.checkpoint()   # objects, storage with the bytes of its disks, sessions, dead hosts
    ...
    xapi.restore(checkpoint)         # a client that was logged in then is logged in again

A checkpoint does not contain ordered faults, the journal, or calls under way. References, uuids and paths
stay the same, so what a test noted at the checkpoint is true again after `Simulator.restore`.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PosixPath
from typing import Any

from xenvol.simulator import datamodel
from xenvol.simulator.datamodel import DataModel
from xenvol.simulator.sm.sparse import SavedFile, restore_file, save_file
from xenvol.simulator.sm.world import new_directory
from xenvol.simulator.xapi import Xapi


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved pool, made by `Simulator.checkpoint`; usable with that simulator only, as long as it lives."""

    state: bytes
    files: tuple[tuple[str, SavedFile], ...]
    """Each file: its path below the world's directory, and its content."""
    links: tuple[tuple[str, str], ...]
    """Disks that are plugged into a control domain: the link, and the file that it points to."""
    clock: Callable[[], float]
    hosts: tuple[tuple[str, str], ...] = ()
    """Each host's reference and its address, in the order of the listeners."""

    def __repr__(self) -> str:
        return f"<Checkpoint of {len(self.state)} bytes, {len(self.files)} files>"


def take(xapi: Xapi) -> Checkpoint:
    """Save the pool; RuntimeError if an operation is under way, because its thread cannot be saved."""
    with xapi.lock:
        if busy := _under_way(xapi):
            raise RuntimeError(
                f"{busy}: a checkpoint needs a pool without calls under way; wait for them to end"
            )
        root = xapi.world.directory
        paths = sorted(path for path in root.rglob("*") if path.is_file() or path.is_symlink())
        return Checkpoint(
            _dump(xapi),
            tuple((str(p.relative_to(root)), save_file(p)) for p in paths if not p.is_symlink()),
            tuple(
                (str(p.relative_to(root)), str(p.readlink().relative_to(root)))
                for p in paths
                if p.is_symlink()
            ),
            xapi.clock,
        )


def make(checkpoint: Checkpoint, directory: Path) -> Xapi:
    """Rebuild the pool of a checkpoint, with its files in that directory, which must be empty."""
    for name, saved in checkpoint.files:
        restore_file(directory / name, saved)
    for name, target in checkpoint.links:
        link = directory / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(directory / target)
    xapi = Xapi.of_state(_Unpickler(checkpoint.state, directory).load())
    xapi.clock = checkpoint.clock
    return xapi


class Template:
    """A fresh pool from which new pools are made, each with uuids of its own.

    A uuid is either fixed by the world or random. To tell them apart, the pool is built twice.
    """

    def __init__(self, build: Callable[[], Xapi]) -> None:
        self._checkpoint, other = (self._built(build) for _ in range(2))
        fixed = {each: each for each in _UUID.findall(other.state)}
        self._pieces = _UUID.split(self._checkpoint.state)
        """The state, cut at every uuid: text, uuid, text, uuid, …, text."""
        self._made_up = dict.fromkeys(each for each in self._pieces[1::2] if each not in fixed)

    @staticmethod
    def _built(build: Callable[[], Xapi]) -> Checkpoint:
        xapi = build()
        try:
            return take(xapi)
        finally:
            xapi.close()
            xapi.world.close()

    def make(self) -> Xapi:
        """Return a new pool of this kind, with new random uuids."""
        renamed = dict(zip(self._made_up, _new_uuids(len(self._made_up)), strict=True))
        pieces = self._pieces.copy()
        pieces[1::2] = [renamed.get(each, each) for each in pieces[1::2]]
        return make(replace(self._checkpoint, state=b"".join(pieces)), new_directory())


def _new_uuids(count: int) -> Iterator[bytes]:
    """Yield random uuids (version 4). All digits are drawn at once, because a pool has a hundred uuids."""
    digits = os.urandom(16 * count).hex().encode()
    for at in range(0, len(digits), 32):
        each = digits[at : at + 32]
        yield b"-".join((each[:8], each[8:12], b"4" + each[13:16], b"a" + each[17:20], each[20:]))


_UUID = re.compile(rb"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")


def _under_way(xapi: Xapi) -> str:
    """Describe what is under way in the pool; empty if nothing is."""
    if xapi.queueing or xapi.held:
        return f"{xapi.queueing or len(xapi.held)} calls are under way"
    db = xapi.db
    for cls in db.model.classes:
        if "current_operations" in db.model.classes[cls].fields:
            for ref in db.refs(cls):
                if operations := db.row(cls, ref)["current_operations"]:
                    return f"{cls} {db.row(cls, ref).get('uuid', ref)} has {', '.join(operations.values())}"
    return ""


# ---- pickling: paths move with the directory, and the data model is loaded, not copied


def _in_directory(name: str) -> Path:
    raise RuntimeError("only _Unpickler knows the directory")  # _Unpickler replaces this function by its own


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, directory: Path) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._directory = directory
        self.dispatch_table = {PosixPath: self._reduce_path, DataModel: _reduce_model}

    def _reduce_path(self, path: Path) -> tuple[Callable[..., Path], tuple[str, ...]]:
        if path.is_relative_to(self._directory):
            return _in_directory, (str(path.relative_to(self._directory)),)
        return PosixPath, (str(path),)


def _reduce_model(model: DataModel) -> tuple[Callable[[str], DataModel], tuple[str]]:
    return datamodel.load, (model.version,)


class _Unpickler(pickle.Unpickler):
    def __init__(self, state: bytes, directory: Path) -> None:
        super().__init__(io.BytesIO(state))
        self._directory = directory

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, _in_directory.__name__):
            return self._directory.joinpath
        return super().find_class(module, name)


def _dump(xapi: Xapi) -> bytes:
    file = io.BytesIO()
    _Pickler(file, xapi.world.directory).dump(xapi.state())
    return file.getvalue()
