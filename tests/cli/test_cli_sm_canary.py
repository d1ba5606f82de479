"""A secret of a backend is in no output, error, log or file, whatever the backend's type and whatever the command."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.sm.backend_lab import BY_NAME, PASSWORD, WORLDS, StorageWorld
from xenvol.cli.sm import COMMANDS
from xenvol.secret import Secret
from xenvol.simulator import Simulator
from xenvol.storage.srtypes import known_types, sr_type_of

if TYPE_CHECKING:
    from conftest import Shell

WITH_SECRETS = [
    world for world in WORLDS if any(isinstance(value, Secret) for value in world.config.values())
]
SWITCHES = pytest.mark.parametrize("switches", [["-vv"], ["--json"]], ids=["verbose", "json"])


class Canary:
    """Runs commands, and collects everything that they show or keep."""

    def __init__(
        self, shell: Shell, world: StorageWorld, switches: list[str], logs: pytest.LogCaptureFixture
    ) -> None:
        self.shell, self.world, self.switches, self.logs = shell, world, switches, logs
        self.said: dict[tuple[str, ...], str] = {}
        self.secret = shell.file("secret", PASSWORD)
        logs.set_level(logging.DEBUG)

    @property
    def keys(self) -> list[str]:
        return [key for key, value in self.world.config.items() if isinstance(value, Secret)]

    def add(self) -> tuple[str, ...]:
        """The command that registers the backend."""
        words = [
            f"{key}=@{self.secret}" if key in self.keys else f"{key}={value}"
            for key, value in self.world.config.items()
        ]
        erase = ["--format", self.world.format_device] if self.world.format_device else []
        return ("backend_add", "gold", self.world.sr_type, *words, *erase)

    def __call__(self, *command: str) -> None:
        """Run the command, whatever its end."""
        result = self.shell("sm", *command, *self.switches)
        assert result.output, command
        self.said[command] = result.output

    def leaks(self) -> list[str]:
        texts = {" ".join(command): text for command, text in self.said.items()}
        texts |= {path.name: path.read_bytes().decode(errors="replace") for path in self.kept()}
        texts["log"] = self.logs.text
        return [what for what, text in texts.items() if PASSWORD in text]

    def kept(self) -> list[Path]:
        return [path for path in self.shell.directory.iterdir() if path.name.startswith("sm.sqlite")]


@pytest.fixture(params=WITH_SECRETS, ids=str)
def canary(
    request: pytest.FixtureRequest, shell: Shell, switches: list[str], caplog: pytest.LogCaptureFixture
) -> Canary:
    request.param.arrange(shell.xapi)
    shell.xapi.add_vm("web")
    shell.sm("flavor_create", "gold", "backups are possible")
    return Canary(shell, request.param, switches, caplog)


@pytest.mark.parametrize("sr_type", known_types())
def test_no_option_of_any_type_shows_it(shell: Shell, sr_type: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither as its value nor within it: a secret in plain text is refused, and one from a file is kept or refused."""
    caplog.set_level(logging.DEBUG)
    shell.sm("flavor_create", "gold", "x")
    secret = shell.file("secret", PASSWORD)
    kind = sr_type_of(sr_type)
    for key in (*kind.required, *(kind.optional or ()), "sr_uuid", "host", "unknown"):
        for value in (
            f"@{secret}",
            f"username=u,password={PASSWORD}",
            f"smb://user:{PASSWORD}@10.0.0.4/vols",
        ):
            result = shell("sm", "backend_add", "gold", sr_type, f"{key}={value}", "-vv")
            assert PASSWORD not in result.output, (key, value)
            assert result.exit_code != 0 or value.startswith("@")
    assert PASSWORD not in caplog.text
    assert not [path for path in shell.directory.glob("sm.sqlite*") if PASSWORD.encode() in path.read_bytes()]


@SWITCHES
def test_no_command_shows_it(canary: Canary, xapi: Simulator) -> None:
    image = canary.shell.file("image.raw", "x" * 4096)
    canary("flavor_create", "silver", "x")
    canary(*canary.add())
    canary(*canary.add())  # refused
    vdi = next(
        (xapi.db.get("VDI", ref, "uuid") for ref in xapi.db.refs("VDI")),
        "7e1f0c9a-4b0e-4d7e-9f8e-0a6f1f2d3c4b",
    )
    for command in (
        ["backend_list"],
        ["backend_list", "1"],
        ["volume_create", "gold", "1", "--id", "mail"],
        ["volume_list"],
        ["volume_manage", vdi, "--id", "lun"],
        ["volume_show", "lun"],
        ["volume_show", "mail"],
        ["volume_connection", "mail"],
        ["volume_connection", "lun"],
        ["volume_connection", "mail", "--introduce"],
        ["volume_extend", "mail", "2"],
        ["volume_snapshot", "mail", "--id", "monday"],
        ["volume_clone", "mail", "--id", "copy"],
        ["volume_create_from_image", "gold", image, "--id", "root", "--format", "raw"],
        ["volume_fill", "mail", image, "--yes", "--format", "raw"],
        ["volume_to_image", "mail", str(canary.shell.directory / "mail.raw"), "--format", "raw"],
        ["backend_update", "1", "--weight", "2"],
        ["stats"],
        ["setup"],
        ["audit"],
        ["audit", "--repair"],
        ["rebuild"],
        ["db_upgrade"],
        ["volume_unmanage", "copy"],
        ["volume_delete", "monday"],
        ["volume_delete", "mail"],
        ["backend_remove", "1"],
        *(["backend_password", "1", f"{key}=@{canary.secret}"] for key in canary.keys),
        ["volume_delete", "root"],
        ["volume_unmanage", "lun"],
        ["flavor_list"],
        ["flavor_delete", "silver"],
        ["backend_remove", "1", "--destroy"],
    ):
        canary(*command)
    assert {command[0] for command in canary.said} == set(COMMANDS)
    assert canary.leaks() == []


@pytest.mark.parametrize("switches", [["-vv"]])
def test_no_error_of_a_command_that_knows_it_shows_it(canary: Canary, xapi: Simulator) -> None:
    """xapi may quote any parameter of a call."""
    for method in ("secret.introduce", "SR.probe", "SR.create", "SR.introduce", "PBD.plug", "SR.set_shared"):
        xapi.faults.refuse(method, "INTERNAL_ERROR", f"cannot log in with {PASSWORD}")
        canary(*canary.add(), f"name_label={method}")
        xapi.faults.clear()
    canary(*canary.add())
    for method in ("secret.get_by_uuid", "secret.set_value"):
        for key in canary.keys:
            xapi.faults.refuse(method, "INTERNAL_ERROR", f"cannot log in with {PASSWORD}")
            canary("backend_password", "1", f"{key}=@{canary.secret}")
            xapi.faults.clear()
    assert canary.leaks() == []


@pytest.mark.parametrize("switches", [[]])
def test_it_is_handed_out_where_it_is_named(canary: Canary, xapi: Simulator) -> None:
    """And the search finds it there: else it would find nothing anywhere."""
    canary(*canary.add())
    if canary.world.luns:
        vdi = xapi.db.get("VDI", xapi.db.refs("VDI")[0], "uuid")
        canary("volume_manage", vdi, "--id", "mail")
    else:
        canary("volume_create", "gold", "1", "--id", "mail")
    assert canary.leaks() == []
    (key,) = canary.keys
    canary("volume_connection", "mail", "--secret", key)
    assert json.loads(canary.said["volume_connection", "mail", "--secret", key])["data"][key] == PASSWORD
    assert canary.leaks() == [f"volume_connection mail --secret {key}"]


def test_the_types_with_secrets_are_these() -> None:
    assert {world.sr_type for world in WITH_SECRETS} == {"smb", "lvmoiscsi", "iscsi", "netapp", "equal"}
    assert BY_NAME["lvmoiscsi with CHAP"] in WITH_SECRETS
