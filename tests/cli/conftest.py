"""A shell with xenvol in it, and a pool that it uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.sm.sqlite_file import with_tables
from xenvol.cli.app import app
from xenvol.simulator import Simulator


class Shell:
    """Runs commands in this process, logged in to a simulator by the environment, with no terminal."""

    def __init__(self, xapi: Simulator, directory: Path) -> None:
        self.xapi = xapi
        self.directory = directory
        self.database = directory / "sm.sqlite"
        self.environment: dict[str, str | None] = {
            "XENVOL_URL": xapi.url,
            "XENVOL_USER": xapi.user,
            "XENVOL_PASSWORD": xapi.password,
            "XENVOL_SM_DATABASE": with_tables(self.database),
        }

    def sm(self, *arguments: str) -> str:
        """Return what a successful command of `xenvol sm` prints for people."""
        result = self("sm", *arguments)
        assert (result.exit_code, result.stderr) == (0, ""), result.stderr
        return result.stdout

    def __call__(self, *arguments: str, stdin: str | None = None, **environment: str | None) -> Result:
        return CliRunner().invoke(app, arguments, input=stdin, env={**self.environment, **environment})

    def json(self, *arguments: str) -> Any:
        """Return the value that a successful command prints with --json."""
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        assert result.stderr == ""
        return json.loads(result.stdout)

    def error(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Return the exit status and the error of a failing command, with --json."""
        result = self(*arguments, "--json")
        assert result.stdout == ""
        error: dict[str, Any] = json.loads(result.stderr.splitlines()[-1])["error"]
        assert error["exit_status"] == result.exit_code
        return result.exit_code, error

    def file(self, name: str, value: object) -> str:
        """Write the value to a file, text as it is and all else as JSON, and return the path."""
        path = self.directory / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return str(path)


@pytest.fixture
def shell(xapi: Simulator, tmp_path: Path) -> Shell:
    return Shell(xapi, tmp_path)


@pytest.fixture
def gold(shell: Shell) -> Shell:
    """A flavor `gold` with backend 1, on an NFS export of 100 GiB."""
    shell.xapi.storage.shares.add_nfs("10.0.0.2").export("/vols", size=100 << 30)
    shell.sm("flavor_create", "gold", "backups are possible")
    shell.sm("backend_add", "gold", "nfs", "server=10.0.0.2", "serverpath=/vols")
    return shell


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str, str], None]:
    """Put a driver of another package on the path, as pip would install it."""

    def install(package: str, driver: str, source: str) -> None:
        place = tmp_path / package
        info = place / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (place / f"{package}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[xenvol.drivers]\n{driver} = {package}:Driver\n")
        monkeypatch.syspath_prepend(place)

    return install
