"""A whole pool kept as bytes, to be made again as often as a test likes: faster than to build it, and the same.

    checkpoint = xapi.checkpoint()   # objects, storage with the bytes of its disks, sessions, dead hosts
    ...
    xapi.restore(checkpoint)         # a client that was logged in then is logged in again

What the running program holds is not kept: ordered faults, the journal, calls under way. References, uuids and paths
stay, so that what was noted at the checkpoint is true again after `Simulator.restore`.
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
    """Made by `Simulator.checkpoint`; for that simulator alone, as long as it lives."""

    state: bytes
    files: tuple[tuple[str, SavedFile], ...]
    """Below the world's directory: where, and what."""
    links: tuple[tuple[str, str], ...]
    """Disks that are plugged into a control domain: the link, and the file that it leads to."""
    clock: Callable[[], float]
    hosts: tuple[tuple[str, str, bool], ...] = ()
    """Reference, address, and whether it is up, in the order of the listeners."""

    def __repr__(self) -> str:
        return f"<Checkpoint of {len(self.state)} bytes, {len(self.files)} files>"


def take(xapi: Xapi) -> Checkpoint:
    """RuntimeError while something is under way in the pool: the thread that does it cannot be kept."""
    with xapi.lock:
        if busy := _under_way(xapi):
            raise RuntimeError(f"{busy}: a checkpoint keeps a pool in which nothing is under way")
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
    """The pool of a checkpoint once more, its files in that directory, which is empty."""
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
    """A pool with nothing in it that a test has done, from which new ones with uuids of their own are made.

    Which uuids are the world's, and which were made up when it was built, is seen by building it twice.
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
        """Another pool of this kind."""
        renamed = dict(zip(self._made_up, _new_uuids(len(self._made_up)), strict=True))
        pieces = self._pieces.copy()
        pieces[1::2] = [renamed.get(each, each) for each in pieces[1::2]]
        return make(replace(self._checkpoint, state=b"".join(pieces)), new_directory())


def _new_uuids(count: int) -> Iterator[bytes]:
    """Random ones (version 4), made at one go, since a pool has a hundred."""
    digits = os.urandom(16 * count).hex().encode()
    for at in range(0, len(digits), 32):
        each = digits[at : at + 32]
        yield b"-".join((each[:8], each[8:12], b"4" + each[13:16], b"a" + each[17:20], each[20:]))


_UUID = re.compile(rb"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")


def _under_way(xapi: Xapi) -> str:
    """What is, in words; empty: nothing."""
    if xapi.queueing or xapi.held:
        return f"{xapi.queueing or len(xapi.held)} calls wait or run"
    db = xapi.db
    for cls in db.model.classes:
        if "current_operations" in db.model.classes[cls].fields:
            for ref in db.refs(cls):
                if operations := db.row(cls, ref)["current_operations"]:
                    return f"{cls} {db.row(cls, ref).get('uuid', ref)} has {', '.join(operations.values())}"
    return ""


# ---- pickling: paths move with the directory, and the data model is loaded, not copied


def _in_directory(name: str) -> Path:
    raise RuntimeError("only _Unpickler knows the directory")  # it puts its own function in this one's place


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
