"""The pool and the login come from options or the environment; no option takes a password's value."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.scenarios import arrange_target, iscsi
from xenvol.cli.app import COMMANDS, app
from xenvol.simulator import Simulator

if TYPE_CHECKING:
    from conftest import Shell

OTHER_CA = Path(__file__).parent.parent / "data/tls/other-ca.pem"


class TestPasswords:
    def test_no_command_takes_one_on_the_command_line(self) -> None:
        """Every user of the machine could read it there."""
        import click

        context = click.Context(app)
        for name in COMMANDS:
            command = app.get_command(context, name)
            assert command is not None
            assert "--password" not in {option for param in command.params for option in param.opts}

    def test_the_first_line_of_the_file_is_the_password(self, shell: Shell, xapi: Simulator) -> None:
        path = shell.file("password", f"{xapi.password}\r\nanother line\n")
        assert shell("connector", "--password-file", path, XENVOL_PASSWORD=None).exit_code == 0

    def test_the_file_goes_before_the_environment(self, shell: Shell, xapi: Simulator) -> None:
        path = shell.file("password", xapi.password)
        assert shell("connector", XENVOL_PASSWORD="wrong", XENVOL_PASSWORD_FILE=path).exit_code == 0

    def test_an_empty_file_is_an_error(self, shell: Shell) -> None:
        result = shell("connector", "--password-file", shell.file("password", ""))
        assert result.exit_code == 2
        assert "is empty: the password is its first line" in result.stderr

    def test_without_any_and_without_a_terminal_it_is_said_what_to_do(self, shell: Shell) -> None:
        result = shell("connector", XENVOL_PASSWORD=None)
        assert result.exit_code == 2
        assert "--password-file" in result.stderr
        assert "XENVOL_PASSWORD" in result.stderr

    def test_whoever_sits_at_a_terminal_is_asked(self, xapi: Simulator) -> None:
        """What is typed is not shown."""
        xapi.password = "typed-canary"
        xapi.xapi.users = {xapi.user: xapi.password}
        terminal, its_end = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "xenvol.cli", "connector", "--url", xapi.url],
            env={name: value for name, value in os.environ.items() if not name.startswith("XENVOL_")},
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
            start_new_session=True,  # so that this is its terminal, and not the one that the tests run at
        )
        os.close(its_end)
        shown = read(terminal, until=b"Password of root: ")
        os.write(terminal, b"typed-canary\n")
        shown += read(terminal, until=b"wwpns")
        assert process.wait(60) == 0
        os.close(terminal)
        assert b"typed-canary" not in shown


def read(terminal: int, *, until: bytes) -> bytes:
    shown, deadline = b"", time.monotonic() + 60
    while until not in shown and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # Linux raises it when the other side is closed
                break
    assert until in shown, shown
    return shown


class TestConnecting:
    def test_addresses_are_tried_in_turn(self, shell: Shell, xapi: Simulator) -> None:
        dead = "http://127.0.0.1:9"
        assert shell("connector", "--url", dead, "--url", xapi.url).exit_code == 0
        assert shell("connector", XENVOL_URL=f"{dead} {xapi.url}").exit_code == 0

    def test_without_an_address_it_is_said_how_to_give_one(self, shell: Shell) -> None:
        result = shell("connector", XENVOL_URL=None)
        assert result.exit_code == 2
        assert "'--url' (env var: 'XENVOL_URL')" in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["--url", "ftp://x"], "is no address of a xapi"),
            (["--url", "https://root:pw@host"], "a URL with a user or a password in it"),
            (["--url", "http://198.51.100.1"], "would send the password in the clear"),
            (["--fingerprint", "12:34"], "is not a SHA-256 fingerprint"),
            (["--insecure", "--ca-file", str(OTHER_CA)], "exclude each other"),
            (["--timeout", "0"], "0.0 is not in the range"),
            (["--ca-file", "/nowhere"], "does not exist"),
        ],
    )
    def test_what_cannot_be_is_a_usage_error(self, shell: Shell, arguments: list[str], text: str) -> None:
        result = shell("connector", *arguments)
        assert result.exit_code == 2
        assert text in " ".join(result.stderr.split())


@pytest.mark.xapi(tls=True)
class TestTLS:
    def test_the_authorities_of_a_file_are_trusted(self, shell: Shell, xapi: Simulator) -> None:
        assert shell("connector", "--ca-file", xapi.ca_file).exit_code == 0
        assert shell("connector", XENVOL_CA_FILE=xapi.ca_file).exit_code == 0

    def test_a_stranger_is_not_told_the_password(self, shell: Shell, xapi: Simulator) -> None:
        for arguments in ([], ["--ca-file", str(OTHER_CA)], ["--fingerprint", "ab" * 32]):
            result = shell("connector", *arguments)
            assert result.exit_code == 9, arguments
            assert "certificate" in result.stderr
        assert list(xapi.journal.logins) == []

    def test_anybody_is_trusted_with_a_warning(self, shell: Shell) -> None:
        result = shell("connector", "--insecure")
        assert result.exit_code == 0
        assert result.stderr.startswith("warning: the certificate of https://127.0.0.1")
        line = json.loads(shell("connector", "--insecure", "--json").stderr)
        assert set(line) == {"warning"}


class TestConnectionInfo:
    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ("{", "is no JSON: Expecting property name enclosed in double quotes, line 1"),
            ("[]", "holds no JSON object"),
            ({"data": {}}, "driver_volume_type"),
        ],
    )
    def test_a_mistake_is_said_before_anybody_logs_in(
        self, shell: Shell, xapi: Simulator, content: object, text: str
    ) -> None:
        result = shell("attach", shell.file("wrong.json", content), "web")
        assert result.exit_code == 2
        assert text in " ".join(result.stderr.split())
        assert list(xapi.journal.logins) == []

    def test_a_file_that_is_not_there_is_named(self, shell: Shell) -> None:
        result = shell("attach", "nowhere.json", "web")
        assert result.exit_code == 2
        assert "nowhere.json cannot be read: No such file or directory" in " ".join(result.stderr.split())

    def test_bytes_that_are_no_text_are_not_quoted(self, shell: Shell, tmp_path: Path) -> None:
        path = tmp_path / "binary.json"
        path.write_bytes(b"\xffcanary")
        result = shell("attach", str(path), "web")
        assert (result.exit_code, "canary" in result.output) == (2, False)
        assert "is not UTF-8" in result.stderr

    @pytest.mark.parametrize("depth", [60, 3000, 100_000])
    def test_json_that_is_nested_too_deeply_is_refused(self, shell: Shell, depth: int) -> None:
        data = '{"a": ' + "[" * depth + "]" * depth + "}"
        wrong = shell.file("wrong.json", f'{{"driver_volume_type": "iscsi", "data": {data}}}')
        result = shell("attach", wrong, "web")
        assert result.exit_code == 2
        assert "nested too deeply" in " ".join(result.stderr.split())

    def test_it_may_have_a_byte_order_mark_and_stand_in_the_answer_of_a_service(
        self, shell: Shell, xapi: Simulator
    ) -> None:
        arrange_target(xapi)
        xapi.add_vm("web")
        answer = "\ufeff" + json.dumps({"connection_info": iscsi(0)})
        assert shell("attach", shell.file("answer.json", answer), "web").exit_code == 0
        assert shell("detach", "-", "web", stdin=answer).exit_code == 0
        assert not xapi.db.refs("VBD")

    @pytest.mark.parametrize("seconds", ["inf", "1e400", "1e30", "0", "-1"])
    def test_a_timeout_that_no_clock_can_measure_is_refused(self, shell: Shell, seconds: str) -> None:
        assert shell("list", "web", "--timeout", seconds).exit_code == 2

    def test_the_flat_shape_does_as_well(self, shell: Shell, xapi: Simulator) -> None:
        arrange_target(xapi)
        xapi.add_vm("web")
        flat = {"driver_volume_type": "iscsi", **iscsi(0)["data"]}
        assert shell("attach", shell.file("flat.json", flat), "web").exit_code == 0
