"""A name becomes a checked driver class; only the driver that is asked for is imported.

Drivers are entry points of the group ``xenvol.drivers``, ours like a stranger's. What is installed is read with
`importlib.metadata`, which knows the packages; the one that is chosen is loaded by stevedore. A package that cannot
be imported, or that breaks the contract, is in nobody else's way.
"""

import importlib.metadata
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from stevedore.driver import DriverManager

from xenvol.contract import find_problem
from xenvol.drivers.base import VolumeDriver
from xenvol.errors import (
    AmbiguousDriver,
    DriverLoadFailed,
    InvalidDriver,
    UnknownDriver,
    XenVolError,
    preference_variable,
)

GROUP = "xenvol.drivers"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledDriver:
    """One entry point, loaded or not: what ``xenvol drivers`` shows."""

    name: str
    package: str
    version: str
    entry_point: str
    """As its package wrote it: ``module:Class``."""
    driver_class: type[VolumeDriver] | None = None
    problem: str | None = None
    """Why it cannot be used; None: it can."""
    schema: type | None = None
    """The keys that it accepts, where it says so."""


def get_driver_class(
    name: str, *, prefer: Mapping[str, str] | None = None, environ: Mapping[str, str] = os.environ
) -> type[VolumeDriver]:
    """Load the driver of a driver_volume_type, in any case of letters.

    Where several packages claim the name, `prefer` maps it to the one that is meant, or else the environment does
    (XENVOL_DRIVER_ISCSI=package). A package that is preferred and not installed is an error, not a suggestion.
    Raises UnknownDriver, AmbiguousDriver, DriverLoadFailed or InvalidDriver.
    """
    return _load(_chosen(name.strip().lower(), prefer=prefer or {}, environ=environ))


def installed_drivers() -> list[InstalledDriver]:
    """Load every driver, and say of each whether it can be used; raises nothing for a broken one."""
    return [_described(entry_point) for entry_point in _entry_points()]


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    """All of the group, in an order that does not depend on the file system."""
    found = importlib.metadata.entry_points(group=GROUP)
    return sorted(found, key=lambda entry_point: (entry_point.name.lower(), _package(entry_point)))


def _chosen(
    name: str, *, prefer: Mapping[str, str], environ: Mapping[str, str]
) -> importlib.metadata.EntryPoint:
    entry_points = _entry_points()
    installed = list(dict.fromkeys(entry_point.name.lower() for entry_point in entry_points))
    claims = [entry_point for entry_point in entry_points if entry_point.name.lower() == name]
    preferences = {key.lower(): package for key, package in prefer.items()}
    preferred = preferences.get(name) or environ.get(preference_variable(name)) or None
    if preferred is not None:
        claims = [claim for claim in claims if _normalised(_package(claim)) == _normalised(preferred)]
    if not claims:
        raise UnknownDriver(name, installed=installed, package=preferred)
    if len(claims) > 1:
        raise AmbiguousDriver(name, packages=[f"{_package(claim)} ({claim.value})" for claim in claims])
    return claims[0]


def _load(entry_point: importlib.metadata.EntryPoint) -> type[VolumeDriver]:
    package = _package(entry_point)
    try:
        loaded: object = _ChosenDriver(entry_point).driver
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything, or exit
        raise DriverLoadFailed(entry_point.name, package=package, cause=error) from error
    problem = find_problem(loaded)
    if problem is not None:
        raise InvalidDriver(entry_point.name, package=package, problem=problem)
    return cast(type[VolumeDriver], loaded)


class _ChosenDriver(DriverManager[VolumeDriver]):
    """stevedore's loader, given the very entry point.

    Left to look for itself it would read a cache on disk that knows no packages and rounds times to two minutes,
    and with two claims to a name import both.
    """

    def __init__(self, entry_point: importlib.metadata.EntryPoint) -> None:
        self._entry_point = entry_point
        super().__init__(GROUP, entry_point.name, on_missing_entrypoints_callback=None)

    def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
        return [self._entry_point]


def _described(entry_point: importlib.metadata.EntryPoint) -> InstalledDriver:
    driver_class, problem, schema = None, None, None
    try:
        driver_class = _load(entry_point)
    except XenVolError as error:
        problem = str(error)
    else:
        schema = getattr(driver_class, "connection_data_schema", None)
    return InstalledDriver(
        name=entry_point.name.lower(),
        package=_package(entry_point),
        version="" if entry_point.dist is None else entry_point.dist.version,
        entry_point=entry_point.value,
        driver_class=driver_class,
        problem=problem,
        schema=schema if isinstance(schema, type) else None,
    )


def _package(entry_point: importlib.metadata.EntryPoint) -> str:
    return "unknown" if entry_point.dist is None else entry_point.dist.name


def _normalised(package: str) -> str:
    """One spelling for a package's name, as installers compare them: Acme.Drivers is acme-drivers."""
    return re.sub(r"[-_.]+", "-", package).lower()
