"""A newcomer finds the way by --help alone, and the command line imports only what it uses."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from xenvol.cli import failures
from xenvol.cli.app import COMMANDS, app


def command(name: str) -> click.Command:
    found = app.get_command(click.Context(app, info_name="xenvol"), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", COMMANDS)
class TestEveryCommand:
    def test_its_help_has_an_example_that_can_be_parsed(self, name: str) -> None:
        result = CliRunner().invoke(app, [name, "--help"])
        assert result.exit_code == 0
        assert "Example" in result.stdout
        assert f"  xenvol {name} " in result.stdout or f"xenvol {name}\n" in result.stdout
        assert "--json" in result.stdout

    def test_it_is_listed_with_the_first_line_of_its_help(self, name: str) -> None:
        assert (command(name).help or "").partition("\n")[0] == COMMANDS[name].about

    def test_its_options_are_explained(self, name: str) -> None:
        options = [param for param in command(name).params if isinstance(param, click.Option)]
        assert [option.name for option in options if not option.help and option.name != "user"] == []


def test_the_help_lists_every_command_and_every_exit_status() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert all(f"\n  {status} " in text for status in failures.STATUSES)
    assert set(failures.STATUSES) == {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130}


@pytest.mark.parametrize("switch", ["-h", "--help"])
def test_help_is_no_failure(switch: str) -> None:
    assert CliRunner().invoke(app, [switch]).exit_code == 0


def test_without_a_command_the_help_is_shown() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert "Commands:" in result.output


def test_a_slip_of_the_finger_is_answered_with_what_was_meant() -> None:
    result = CliRunner().invoke(app, ["detatch"])
    assert result.exit_code == 2
    assert "Did you mean 'detach'?" in result.stderr


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("xenvol 0.")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_which_one_to_install(missing: str) -> None:
    """It says so in one line, with the status of a wrong request."""
    ran = python(f"import sys; sys.modules[{missing!r}] = None; from xenvol.cli import main; main()")
    assert ran.returncode == 2
    assert ran.stderr == (
        f"xenvol: the command line needs {missing}, which is not installed: pip install 'xenvol[cli]'\n"
    )


def test_help_loads_neither_the_simulator_nor_any_driver() -> None:
    """A command's module is imported when it is called."""
    ran = python(
        "import sys; from xenvol.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith(('xenvol.simulator', 'xenvol.drivers', "
        "'xenvol.volumeops'))])"
    )
    assert ran.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("how", [["-m", "xenvol.cli"], ["-c", "from xenvol.cli import main; main()"]])
def test_the_module_and_the_console_script_are_the_same(how: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, *how, "drivers", "drbd"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 4
    assert ran.stderr.startswith("error: no driver for driver_volume_type 'drbd' is installed")


def test_letters_that_the_terminal_does_not_have_stop_nothing() -> None:
    ran = python("from xenvol.cli import main; main()", PYTHONIOENCODING="ascii")
    assert "Commands:" in ran.stdout + ran.stderr
