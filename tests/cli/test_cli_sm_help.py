"""`xenvol sm` explains itself, accepts names as people write them, and imports only what it uses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from xenvol.cli.app import app
from xenvol.cli.sm import COMMANDS, sm

OF_NOVA_MANAGE = {
    "flavor_list": ["label"],
    "flavor_create": ["label", "description"],
    "flavor_delete": ["label"],
    "backend_list": ["backend_id"],
    "backend_add": ["flavor_label", "sr_type", "words"],
    "backend_remove": ["backend_id"],
}


def command(name: str) -> click.Command:
    found = sm.get_command(click.Context(sm, info_name="xenvol sm"), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", COMMANDS)
class TestEveryCommand:
    def test_its_help_has_an_example(self, name: str) -> None:
        result = CliRunner().invoke(app, ["sm", name, "-h"])
        assert result.exit_code == 0
        assert re.search(rf"Examples?:\n    xenvol sm {name}\b", result.stdout)
        assert {"--json", "--database"} <= set(re.findall(r"--\w+", result.stdout))

    def test_it_is_listed_with_the_first_line_of_its_help(self, name: str) -> None:
        assert (command(name).help or "").partition("\n")[0] == COMMANDS[name].about

    def test_its_options_are_explained(self, name: str) -> None:
        options = [param for param in command(name).params if isinstance(param, click.Option)]
        assert [option.name for option in options if not option.help and option.name != "user"] == []

    def test_its_name_may_be_written_with_a_hyphen(self, name: str) -> None:
        result = CliRunner().invoke(app, ["sm", name.replace("_", "-"), "--help"])
        assert result.stdout.startswith(f"Usage: xenvol sm {name} ")

    def test_it_is_in_the_documentation(self, name: str) -> None:
        page = (Path(__file__).parent.parent.parent / "docs/cli.md").read_text()
        assert f"| `{name}" in page


def test_the_help_lists_every_command() -> None:
    text = CliRunner().invoke(app, ["sm", "--help"]).stdout
    assert all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("name", OF_NOVA_MANAGE)
def test_arguments_are_in_the_order_that_people_know(name: str) -> None:
    arguments = [param for param in command(name).params if isinstance(param, click.Argument)]
    assert [argument.name for argument in arguments] == OF_NOVA_MANAGE[name]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (["flavour_create"], "flavor_create"),
        (["flavor-creat"], "flavor_create"),
        (["backend", "add"], "backend_add"),
        (["volume", "list", "--json"], "volume_list"),
        (["backend_create", "1"], "backend_add"),
        (["db_sync"], "db_upgrade"),
        (["do_setup"], "setup"),
    ],
)
def test_a_slip_of_the_finger_is_answered_with_what_was_meant(written: list[str], meant: str) -> None:
    result = CliRunner().invoke(app, ["sm", *written])
    assert result.exit_code == 2
    assert f"Did you mean '{meant}'?" in result.output


@pytest.mark.parametrize("written", ["backend_delete", "backend-delete"])
def test_a_command_answers_to_the_name_that_nova_gave_it(written: str) -> None:
    result = CliRunner().invoke(app, ["sm", written, "--help"])
    assert result.stdout.startswith("Usage: xenvol sm backend_remove ")


def test_what_is_like_nothing_is_no_command() -> None:
    result = CliRunner().invoke(app, ["sm", "nonsense"])
    assert (result.exit_code, "Did you mean" in result.output) == (2, False)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; from xenvol.cli import main; main()"],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("missing", ["sqlalchemy", "alembic"])
class TestWithoutTheExtra:
    def test_a_command_says_which_one_to_install(self, missing: str) -> None:
        ran = python(f"sys.modules[{missing!r}] = None; sys.argv = ['xenvol', 'sm', 'flavor_list']")
        assert ran.returncode == 2
        assert (
            f"sm flavor_list` needs {missing}, which is not installed: pip install 'xenvol[sm]'" in ran.stderr
        )

    def test_the_help_and_all_other_commands_need_it_not(self, missing: str) -> None:
        for arguments in ("'sm', '--help'", "'drivers'"):
            ran = python(f"sys.modules[{missing!r}] = None; sys.argv = ['xenvol', {arguments}]")
            assert (ran.returncode, ran.stderr) == (0, "")
