"""`xenvol drivers`: the installed drivers, their packages and keys; and drivers that do not work, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from rich.text import Text

from xenvol.cli.options import output_options
from xenvol.cli.terminal import Terminal
from xenvol.connection_data.keys import accepted_keys, json_schema
from xenvol.drivers.registry import InstalledDriver, get_driver_class, installed_drivers
from xenvol.errors import DriverError, UnknownDriver, preference_variable

UNTOLD = "any: the driver does not list them"


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@output_options
def drivers(terminal: Terminal, name: str | None) -> None:
    """Show the installed drivers, their packages, and the keys that they accept.

    NAME, a driver_volume_type, shows one driver with the form of each key. With --json, each driver has the
    JSON Schema of its connection_info's data.

    \b
    Examples:
      xenvol drivers
      xenvol drivers iscsi
      xenvol drivers --json | jq '.[] | select(.problem) | .package'
    """
    found = installed_drivers()
    if name is not None:
        installed = list(dict.fromkeys(driver.name for driver in found))
        found = [driver for driver in found if driver.name == name.strip().lower()]
        if not found:
            raise UnknownDriver(name, installed=installed)
    facts = [_facts(driver) for driver in found]
    if terminal.as_json:
        terminal.json(facts)
    elif name is None:
        terminal.table(["DRIVER", "PACKAGE", "ACCEPTED KEYS"], [_row(each) for each in facts])
    else:
        for each in facts:
            _show(terminal, each)


def _facts(driver: InstalledDriver) -> dict[str, Any]:
    keys, schema = _schema(driver.schema)
    return {
        "name": driver.name,
        "package": driver.package,
        "version": driver.version,
        "entry_point": driver.entry_point,
        "problem": _problem(driver),
        "keys": keys,
        "schema": schema,
    }


def _problem(driver: InstalledDriver) -> str | None:
    """Return why an attach would not use the driver, or None."""
    if driver.problem is not None:
        return driver.problem
    try:
        chosen = get_driver_class(driver.name)
    except DriverError as error:  # two packages have its name, or the environment prefers a missing one
        return str(error)
    if chosen is not driver.driver_class:
        return f"{preference_variable(driver.name)} prefers another package's driver {driver.name!r}"
    return None


def _schema(schema: type | None) -> tuple[Mapping[str, str] | None, dict[str, Any] | None]:
    """Return the keys in words and as JSON Schema; None for what cannot be read from a class of another package."""
    if schema is None:
        return None, None
    try:
        keys = accepted_keys(schema)
    except (TypeError, NameError):  # annotations that cannot be resolved
        return None, None
    try:
        return keys, json_schema(schema)
    except (TypeError, NameError):  # types that JSON Schema does not have
        return keys, None


def _row(facts: dict[str, Any]) -> list[str | Text]:
    package = f"{facts['package']} {facts['version']}".strip()
    if facts["problem"] is not None:
        return [facts["name"], package, Text(f"BROKEN: {facts['problem']}", style="red")]
    return [facts["name"], package, UNTOLD if facts["keys"] is None else ", ".join(facts["keys"])]


def _show(terminal: Terminal, facts: dict[str, Any]) -> None:
    terminal.say(f"{facts['name']}: {facts['entry_point']} of {facts['package']} {facts['version']}".strip())
    if facts["problem"] is not None:
        terminal.say(f"BROKEN: {facts['problem']}", style="red")
    elif facts["keys"] is None:
        terminal.say(f"accepted keys: {UNTOLD}")
    else:
        terminal.table(["KEY", "ACCEPTED"], [[key, form] for key, form in facts["keys"].items()])
