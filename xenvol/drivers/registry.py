"""Find the driver class of a name, and check it. Only that driver is imported.

Drivers are entry points of the group ``xenvol.drivers``, the built-in ones too. A package that cannot be imported, or
whose class breaks the contract, does not affect other drivers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from xenvol.drivers.base import VolumeDriver
from xenvol.drivers.contract import find_problem
from xenvol.errors import (
    AmbiguousDriver,
    DriverError,
    DriverLoadFailed,
    InvalidDriver,
    UnknownDriver,
    preference_variable,
)
from xenvol.session.refs import text_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledDriver:
    """One entry point, loaded: what ``xenvol drivers`` shows."""

    name: str
    package: str
    version: str
    entry_point: str
    """As its package wrote it: ``module:Class``."""
    driver_class: type[VolumeDriver] | None = None
    problem: str | None = None
    """Why it cannot be used, or None."""
    schema: type | None = None
    """The keys that it accepts, if it tells them."""


def get_driver_class(
    name: str, *, prefer: Mapping[str, str] | None = None, environ: Mapping[str, str] = os.environ
) -> type[VolumeDriver]:
    """Return the driver class of a driver_volume_type, in any case of letters.

    If several packages claim the name, `prefer` maps it to a package, or else the environment does
    (XENVOL_DRIVER_ISCSI=package). If the preferred package is not installed, UnknownDriver is raised.
    Raises UnknownDriver, AmbiguousDriver, DriverLoadFailed or InvalidDriver.
    """
    name = text_of(name, "a driver", by="its driver_volume_type")
    return _load(_chosen(name.strip().lower(), prefer=prefer or {}, environ=environ))


def installed_drivers() -> list[InstalledDriver]:
    """Load every installed driver, and return whether each can be used. Raises nothing for a broken one."""
    from xenvol.drivers.entry_points import all_entry_points  # late: its import is slow

    return [_described(entry_point) for entry_point in all_entry_points()]


def _chosen(name: str, *, prefer: Mapping[str, str], environ: Mapping[str, str]) -> EntryPoint:
    from xenvol.drivers.entry_points import all_entry_points, package_of  # late: its import is slow

    entry_points = all_entry_points()
    claims = [entry_point for entry_point in entry_points if entry_point.name.lower() == name]
    preferences = {key.lower(): package for key, package in prefer.items()}
    preferred = preferences.get(name) or environ.get(preference_variable(name)) or None
    if preferred is not None:
        claims = [claim for claim in claims if _normalised(package_of(claim)) == _normalised(preferred)]
    if not claims:
        installed = list(dict.fromkeys(entry_point.name.lower() for entry_point in entry_points))
        raise UnknownDriver(name, installed=installed, package=preferred)
    if len(claims) > 1:
        raise AmbiguousDriver(name, packages=[f"{package_of(claim)} ({claim.value})" for claim in claims])
    return claims[0]


def _load(entry_point: EntryPoint) -> type[VolumeDriver]:
    from xenvol.drivers.entry_points import load, package_of  # late: its import is slow

    package = package_of(entry_point)
    try:
        loaded = load(entry_point)
    except (Exception, SystemExit) as error:  # a third party's module may raise anything, or exit
        raise DriverLoadFailed(entry_point.name, package=package, cause=error) from error
    problem = find_problem(loaded)
    if problem is not None:
        raise InvalidDriver(entry_point.name, package=package, problem=problem)
    return cast(type[VolumeDriver], loaded)


def _described(entry_point: EntryPoint) -> InstalledDriver:
    from xenvol.drivers.entry_points import package_of, version_of  # late: its import is slow

    driver_class, problem = None, None
    try:
        driver_class = _load(entry_point)
    except DriverError as error:
        problem = str(error)
    schema = getattr(driver_class, "connection_data_schema", None)
    return InstalledDriver(
        name=entry_point.name.lower(),
        package=package_of(entry_point),
        version=version_of(entry_point),
        entry_point=entry_point.value,
        driver_class=driver_class,
        problem=problem,
        schema=schema if isinstance(schema, type) else None,
    )


def _normalised(package: str) -> str:
    """Return a package's name as installers compare it: Acme.Drivers is acme-drivers."""
    return re.sub(r"[-_.]+", "-", package).lower()
