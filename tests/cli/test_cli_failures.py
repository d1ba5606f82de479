"""The exit status says whose fault it was; the error names the culprit and the remedy, and shows no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.scenarios import CHAP, arrange_target, changes, iscsi
from xenvol.cli import failures
from xenvol.errors import XenVolError
from xenvol.simulator import Simulator

if TYPE_CHECKING:
    from conftest import Shell

ERROR_KEYS = {"type", "blame", "exit_status", "is_transient", "message", "code", "params", "hint", "notes"}
BUGGY = """
class Driver:
    def __init__(self, session, *, hosts=None): ...
    def connect_volume(self, connection_data):
        return connection_data["nothing with password=canary-0f-a-bug"]
    def disconnect_volume(self, connection_data): ...
    def rollback(self, connection_data): ...
"""


@pytest.fixture
def info(xapi: Simulator, shell: Shell) -> str:
    arrange_target(xapi, chap=CHAP)
    xapi.add_vm("web")
    return shell.file("volume.json", with_chap(0))


def with_chap(lun: int) -> dict[str, Any]:
    return iscsi(lun, auth_method="CHAP", auth_username=CHAP[0], auth_password=CHAP[1])


class TestStatuses:
    def test_2_a_request_that_cannot_be(self, shell: Shell, info: str) -> None:
        status, error = shell.error("list", "nobody")
        assert (status, error["blame"], error["type"]) == (2, "request", "UnknownVM")

    @pytest.mark.parametrize("arguments", [["attach"], ["list", "web", "--nonsense"], ["atach", "x"]])
    def test_2_a_command_line_that_cannot_be(self, shell: Shell, arguments: list[str]) -> None:
        status, error = shell.error(*arguments)
        assert (status, error["blame"], error["type"]) == (2, "request", "UsageError")
        assert error["hint"].startswith("xenvol ")
        assert error["hint"].endswith("--help")

    def test_3_a_vm_that_takes_no_disk(self, shell: Shell, info: str, xapi: Simulator) -> None:
        xapi.add_vm("old", kind="hvm", pv_drivers=False)
        status, error = shell.error("attach", info, "old")
        assert (status, error["blame"], error["type"]) == (3, "vm", "NotHotpluggable")

    def test_4_a_driver_that_nobody_has_installed(self, shell: Shell, info: str) -> None:
        other = shell.file("other.json", {"driver_volume_type": "drbd", "data": {}})
        status, error = shell.error("attach", other, "web")
        assert (status, error["blame"], error["type"]) == (4, "driver", "UnknownDriver")

    def test_5_storage_that_has_no_such_volume(self, shell: Shell, info: str) -> None:
        status, error = shell.error("attach", shell.file("other.json", with_chap(7)), "web")
        assert (status, error["blame"], error["type"]) == (5, "storage", "VolumeNotFound")

    def test_6_a_xapi_that_refuses(self, shell: Shell, info: str, xapi: Simulator) -> None:
        """The error has xapi's code and parameters verbatim, and what to do about them."""
        xapi.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_141", "", "no portal", "")
        before = xapi.snapshot()
        status, error = shell.error("attach", info, "web")
        assert (status, error["blame"], error["type"]) == (6, "hypervisor", "XapiError")
        assert (error["code"], error["params"]) == ("SR_BACKEND_FAILURE_141", ["", "no portal", ""])
        assert error["message"] == "PBD.plug was refused: SR_BACKEND_FAILURE_141 [no portal]"
        assert error["hint"].startswith("nothing answers at this portal")
        assert changes(before, xapi.snapshot()) == []

    def test_7_nobody_who_answers(self, shell: Shell) -> None:
        result = shell("list", "web", XENVOL_URL="http://127.0.0.1:9")
        assert result.exit_code == 7
        assert "hint: nothing was sent: check the address (--url)" in result.stderr

    def test_1_a_bug_is_one_line_without_a_traceback(
        self, shell: Shell, info: str, install: Callable[..., None]
    ) -> None:
        """The line shows no secret; -vv shows more."""
        install("buggy", "buggy", BUGGY)
        sent = shell.file("buggy.json", {"driver_volume_type": "buggy", "data": {}})
        result = shell("attach", sent, "web")
        assert result.exit_code == 1
        assert result.stderr.startswith("error: unexpected KeyError: ")
        assert "Traceback" not in result.stderr
        more = shell("attach", sent, "web", "-vv")
        assert "Traceback" in more.stderr
        assert "in connect_volume" in more.stderr
        assert "canary" not in result.output + more.output

    def test_every_exception_of_the_library_has_a_status_of_its_kind(self) -> None:
        """2 to 9, 130 for a cancelled transfer, and 1 for none of them."""
        import xenvol.images.errors
        import xenvol.sm.errors  # noqa: F401  # their errors are the library's only once they are imported

        kinds, statuses = [XenVolError], set()
        while kinds:
            kind = kinds.pop()
            kinds += kind.__subclasses__()
            if kind is not XenVolError and kind.__module__.startswith("xenvol."):  # tests define some, too
                statuses.add(failures.blame_of(kind.__new__(kind)).status)
        assert statuses == {2, 3, 4, 5, 6, 7, 8, 9, 130}


class TestErrors:
    def test_people_get_the_error_the_hint_and_the_notes(
        self, shell: Shell, info: str, xapi: Simulator
    ) -> None:
        """A step that could not be undone is in the notes, since the operator must finish it."""
        xapi.faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_141", "", "no portal", "")
        xapi.faults.refuse("SR.forget", "INTERNAL_ERROR", "by order")
        result = shell("attach", info, "web")
        lines = [line.partition(": ")[0] for line in result.stderr.splitlines()]
        assert lines[-4:] == ["error", "  hint", "  note", "  note"]  # which host, and what is left
        assert "note: not undone:" in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""

    def test_machines_get_one_object_with_the_same_keys_always(self, shell: Shell, info: str) -> None:
        for arguments in (["list", "nobody"], ["list"], ["attach", info, "web", "floppy"]):
            assert set(shell.error(*arguments)[1]) == ERROR_KEYS

    def test_with_json_and_v_every_line_of_standard_error_is_json(self, shell: Shell, info: str) -> None:
        result = shell("attach", info, "web", "-vv", "--json")
        lines = [json.loads(line) for line in result.stderr.splitlines()]
        assert len(lines) > 10
        assert set(json.loads(result.stdout)) >= {"device"}
        calls = [json.loads(line) for line in shell("list", "web", "-v", "--json").stderr.splitlines()]
        assert all(set(call) == {"call", "seconds", "outcome"} for call in calls)

    def test_v_shows_the_calls(self, shell: Shell, info: str, xapi: Simulator) -> None:
        with xapi.journal.recording() as calls:
            result = shell("attach", info, "web", "-v")
        shown = [line.split()[0] for line in result.stderr.splitlines()]
        of_the_log_in = 2  # what a new session learns of its pool
        assert [call for call in shown if not call.startswith(("session.", "info:"))] == calls.methods()[
            of_the_log_in:
        ]
        assert shown[0] == "session.login_with_password"
        assert shown[-1] == "session.logout"


class TestSecrets:
    @pytest.mark.parametrize("switches", [[], ["--json"], ["-vv"], ["-vv", "--json"]])
    def test_no_password_is_ever_shown(
        self, shell: Shell, info: str, xapi: Simulator, switches: list[str]
    ) -> None:
        """Neither xapi's password nor CHAP's is shown, by successful and by failing commands."""
        canaries = [CHAP[1], "canary-xapi-password", xapi.password + "-canary"]
        outputs = [
            shell(*command, *switches).output
            for command in (
                ["attach", info, "web"],
                ["attach", info, "web", "floppy"],
                ["extend", info],
                ["list", "web", "--check"],
                ["detach", info, "web"],
                ["connector"],
            )
        ]
        outputs.append(shell("list", "web", *switches, XENVOL_PASSWORD=canaries[1]).output)
        wrong = iscsi(0, auth_method="CHAP", auth_username="u", auth_password=canaries[2])
        outputs.append(shell("attach", shell.file("wrong.json", wrong), "web", *switches).output)
        broken = shell.file("broken.json", json.dumps(wrong)[:-1])
        outputs.append(shell("attach", broken, "web", *switches).output)
        for method in ("secret.introduce", "PBD.create", "PBD.plug", "VBD.plug"):
            quoted = (
                CHAP[1] if method == "secret.introduce" else "nothing"
            )  # xapi's errors quote what was sent
            xapi.faults.refuse(method, "INTERNAL_ERROR", f"because of {quoted}")
            outputs.append(shell("attach", info, "web", *switches).output)
            xapi.faults.lose_answer(method)
            outputs.append(shell("attach", info, "web", *switches).output)
            outputs.append(shell("detach", info, "web", *switches).output)
            xapi.faults.clear()
        assert all(outputs)
        assert [canary for canary in canaries for output in outputs if canary in output] == []


class TestInterrupt:
    @pytest.mark.parametrize(
        ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
    )
    def test_what_was_begun_is_taken_back(
        self, shell: Shell, info: str, xapi: Simulator, number: signal.Signals, status: int
    ) -> None:
        """Ctrl-C, `timeout` or systemd, and a closed terminal interrupt; the status says which."""
        before = xapi.snapshot()
        order = xapi.faults.hang("VBD.create")
        environment = {**os.environ, **{k: v for k, v in shell.environment.items() if v is not None}}
        command = [sys.executable, "-m", "xenvol.cli", "attach", info, "web"]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while not order.hits and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
        order.release()
        assert process.returncode == status
        assert (stdout, stderr.splitlines()[0]) == ("", "error: interrupted")
        assert changes(before, xapi.snapshot()) == []
