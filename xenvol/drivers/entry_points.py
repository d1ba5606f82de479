"""The one place that reads and loads entry points.

The registry imports this module with the first driver that it needs: importlib.metadata and stevedore take 27 of the
100 ms that importing the core may cost.
"""

import functools
import importlib.metadata
import os
import sys
from importlib.metadata import EntryPoint

from stevedore.driver import DriverManager

GROUP = "xenvol.drivers"


def all_entry_points(group: str = GROUP) -> list[EntryPoint]:
    """Return all entry points of the group, in an order that does not depend on the file system.

    They are cached until a folder of ``sys.path`` changes. So a package that is installed meanwhile is seen, and an
    attach does not read the metadata of every package of the machine.
    """
    return list(_cached(group, _state_of_path()))


@functools.lru_cache(maxsize=16)
def _cached(group: str, state: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    found = importlib.metadata.entry_points(group=group)
    return tuple(sorted(found, key=lambda entry_point: (entry_point.name.lower(), package_of(entry_point))))


def _state_of_path() -> tuple[tuple[str, int], ...]:
    """Return each folder of ``sys.path`` and when it last changed: installers add and remove folders in it."""
    return tuple((folder, _mtime_of(folder or ".")) for folder in sys.path)


def _mtime_of(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:  # no such folder, or this process may not read it
        return 0


def load(entry_point: EntryPoint) -> object:
    """Import the object of an entry point. Raises any error of the foreign module, SystemExit included."""
    driver: object = _ChosenDriver(entry_point).driver
    return driver


def package_of(entry_point: EntryPoint) -> str:
    return "unknown" if entry_point.dist is None else _name(entry_point.dist)


@functools.lru_cache(maxsize=256)
def _name(dist: importlib.metadata.Distribution) -> str:
    """Return the package's name. Cached, since reading it parses a file of metadata."""
    return dist.name


def version_of(entry_point: EntryPoint) -> str:
    return "" if entry_point.dist is None else entry_point.dist.version


class _ChosenDriver(DriverManager[object]):
    """stevedore's loader, for an entry point that is already chosen.

    Its own search would read a cache on disk that records no packages and may be two minutes stale. If two packages
    claim a name, it would import both (stevedore 5.10, _cache.py and extension.py).
    """

    def __init__(self, entry_point: EntryPoint) -> None:
        self._entry_point = entry_point
        super().__init__(entry_point.group, entry_point.name, on_missing_entrypoints_callback=None)

    def list_entry_points(self) -> list[EntryPoint]:
        return [self._entry_point]
