"""`xenvol drivers` shows what an attach would find: names, packages, keys, and why a broken driver is not used."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from xenvol.cli.app import app

PLUGINS = Path(__file__).parent.parent / "plugins"
KEYS = {"name", "package", "version", "entry_point", "problem", "keys", "schema"}


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["drivers", *arguments], env=environment)


def facts(*arguments: str, **environment: str) -> dict[str, dict[str, Any]]:
    """By name and package."""
    listed = json.loads(run(*arguments, "--json", **environment).stdout)
    return {f"{each['name']} of {each['package']}": each for each in listed}


@pytest.mark.parametrize("name", ["gluster", "iscsi", "nfs", "xensm"])
class TestOurs:
    def test_it_is_listed_with_its_package_and_version(self, name: str) -> None:
        line = next(line for line in run().stdout.splitlines() if line.startswith(f"{name}\t"))
        assert f"\txenvol {importlib.metadata.version('xenvol')}\t" in line
        assert "volume_id, " in line

    def test_its_keys_are_told_with_the_form_that_each_takes(self, name: str) -> None:
        each = facts()[f"{name} of xenvol"]
        assert set(each) == KEYS
        assert each["problem"] is None
        assert all(each["keys"].values())
        lines = run(name).stdout.splitlines()
        assert lines[0].startswith(f"{name}: xenvol.drivers.{name}:")
        assert lines[2:] == [f"{key}\t{form}" for key, form in each["keys"].items()]

    def test_its_schema_is_json_schema_of_these_keys(self, name: str) -> None:
        each = facts()[f"{name} of xenvol"]
        (table,) = each["schema"]["$defs"].values()
        assert set(table["properties"]) == set(each["keys"])


def test_passwords_are_marked_in_the_schema() -> None:
    """A program that makes a form of the schema hides what is typed."""
    schema = facts("iscsi")["iscsi of xenvol"]["schema"]
    (table,) = schema["$defs"].values()
    assert '"format": "password"' in json.dumps(table["properties"]["auth_password"])


def test_a_strangers_driver_is_listed_with_the_keys_of_its_own_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PLUGINS / "fibre")
    each = facts("fibre_channel")["fibre_channel of Acme.Fibre"]
    assert (each["version"], set(each["keys"])) == ("1.2", {"target_wwn"})
    assert each["schema"] is not None


def test_a_driver_that_says_nothing_of_its_keys_is_said_to(install: Callable[..., None]) -> None:
    install("silent", "silent", SILENT)
    assert facts("silent")["silent of silent"]["keys"] is None
    assert "accepted keys: any: the driver does not list them" in run("silent").stdout


@pytest.mark.parametrize(
    ("plugin", "name", "reason"),
    [
        ("broken", "needs_a_library", "cannot be imported (ModuleNotFoundError"),
        ("faulty", "forgets_rollback", "breaks the contract"),
    ],
)
def test_a_broken_one_is_listed_with_the_reason_and_the_others_with_it(
    monkeypatch: pytest.MonkeyPatch, plugin: str, name: str, reason: str
) -> None:
    monkeypatch.syspath_prepend(PLUGINS / plugin)
    result = run()
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if line.startswith(f"{name}\t"))
    assert "\tBROKEN: " in line
    assert reason in line
    assert reason in run(name).stdout
    assert any(line.startswith("iscsi\t") for line in result.stdout.splitlines())


class TestTwoPackagesWithOneName:
    @pytest.fixture(autouse=True)
    def _rival(self, install: Callable[..., None]) -> None:
        install("rival", "iscsi", SILENT)

    def test_both_are_listed_with_what_to_set(self) -> None:
        found = facts("iscsi")
        assert set(found) == {"iscsi of rival", "iscsi of xenvol"}
        assert all("XENVOL_DRIVER_ISCSI=<package>" in each["problem"] for each in found.values())

    def test_the_preferred_one_is_well_and_the_other_is_said_not_to_be_used(self) -> None:
        found = facts("iscsi", XENVOL_DRIVER_ISCSI="rival")
        assert found["iscsi of rival"]["problem"] is None
        assert "XENVOL_DRIVER_ISCSI prefers" in found["iscsi of xenvol"]["problem"]


def test_an_unknown_name_lists_what_is_installed() -> None:
    result = run("drbd")
    assert result.exit_code == 4
    assert "installed: gluster, iscsi, nfs, xensm" in result.stderr


SILENT = """
class Driver:
    def __init__(self, session, *, hosts=None): ...
    def connect_volume(self, connection_data): ...
    def disconnect_volume(self, connection_data): ...
    def rollback(self, connection_data): ...
"""
