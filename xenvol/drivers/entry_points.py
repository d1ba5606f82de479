"""Entry points are read and loaded here, and nowhere else.

Imported when the first driver is asked for and not before: importlib.metadata and stevedore take 27 of the 100 ms
that importing the core may cost.
"""

import functools
import importlib.metadata
import os
import sys
from importlib.metadata import EntryPoint

from stevedore.driver import DriverManager

GROUP = "xenvol.drivers"


def all_entry_points(group: str = GROUP) -> list[EntryPoint]:
    """Return all of the group, in an order that does not depend on the file system.

    Looked up again only where a folder of ``sys.path`` has changed: a package installed meanwhile is seen, and an
    attach does not read the metadata of every package of the machine.
    """
    return list(_looked_up(group, _state_of_path()))


@functools.lru_cache(maxsize=16)
def _looked_up(group: str, state: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    found = importlib.metadata.entry_points(group=group)
    return tuple(sorted(found, key=lambda entry_point: (entry_point.name.lower(), package_of(entry_point))))


def _state_of_path() -> tuple[tuple[str, int], ...]:
    """Where packages are looked for, and when each folder last changed: an installer adds or removes one there."""
    return tuple((folder, _changed(folder or ".")) for folder in sys.path)


def _changed(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:  # no such folder, or none that this process may read
        return 0


def load(entry_point: EntryPoint) -> object:
    """Import what an entry point names. Raises whatever the foreign module raises, SystemExit included."""
    driver: object = _ChosenDriver(entry_point).driver
    return driver


def package_of(entry_point: EntryPoint) -> str:
    return "unknown" if entry_point.dist is None else _name(entry_point.dist)


@functools.lru_cache(maxsize=256)
def _name(dist: importlib.metadata.Distribution) -> str:
    """Read once, since the name stands in a file that is parsed as an e-mail."""
    return dist.name


def version_of(entry_point: EntryPoint) -> str:
    return "" if entry_point.dist is None else entry_point.dist.version


class _ChosenDriver(DriverManager[object]):
    """stevedore's loader, given the very entry point.

    Left to look for itself it would read a cache on disk that knows no packages and rounds times to two minutes,
    and with two claims to a name import both (stevedore 5.10, _cache.py and extension.py).
    """

    def __init__(self, entry_point: EntryPoint) -> None:
        self._entry_point = entry_point
        super().__init__(entry_point.group, entry_point.name, on_missing_entrypoints_callback=None)

    def list_entry_points(self) -> list[EntryPoint]:
        return [self._entry_point]
