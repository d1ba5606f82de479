"""A user at a terminal is asked, sees no secret, and erases a device by typing its name."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.scenarios import CHAP, GIB, IQN, scsi_id
from xenvol.simulator import Simulator

if TYPE_CHECKING:
    from conftest import Shell

PASSWORD = CHAP[1]
LUN = scsi_id(0)
ADD = [
    "sm", "backend_add", "gold", "lvmoiscsi", "target=10.0.0.1", f"targetIQN={IQN}", f"chapuser={CHAP[0]}",
    "chappassword=", f"SCSIid={LUN}",
]  # fmt: skip  # because a command reads better in lines than in a column


def at_a_terminal(
    shell: Shell, command: list[str], *answers: tuple[str, str], width: int = 200
) -> tuple[int, str]:
    """Answer each question; return the exit status and all that was shown."""
    environment = {**os.environ, **{k: v for k, v in shell.environment.items() if v is not None}}
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "xenvol.cli", *command],
        env={**environment, "TERM": "xterm", "COLUMNS": str(width)},
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,  # so that this is its terminal, and not the one that the tests run at
    )
    os.close(its_end)
    shown, left, deadline = b"", list(answers), time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # Linux raises it when the other side is closed
                break
        if left and left[0][0].encode() in shown:
            os.write(terminal, f"{left.pop(0)[1]}\n".encode())
    os.close(terminal)
    assert left == [], shown
    return process.wait(60), shown.decode()


@pytest.fixture
def locked(shell: Shell, xapi: Simulator) -> Shell:
    """A target that needs CHAP, and a flavor."""
    xapi.storage.san.add_target(IQN, "10.0.0.1:3260", chap=CHAP)
    xapi.storage.san.add_lun(IQN, 0, 100 * GIB, scsi_id=LUN)
    shell.sm("flavor_create", "gold", "backups are possible")
    return shell


def test_a_secret_is_asked_for_and_not_shown_and_a_device_erased_by_its_name(
    locked: Shell, xapi: Simulator
) -> None:
    """At the end the connection_info is shown with stars, because it is shown at a terminal."""
    secret = ("chappassword of the backend: ", PASSWORD)
    question = "Enter keeps it: "
    for answer in ("", "/dev/sdb"):
        status, shown = at_a_terminal(locked, ADD, secret, (question, answer))
        assert (status, PASSWORD in shown) == (5, False)
        assert "XenAPI cannot tell whether it holds a file system" in shown
        assert xapi.storage.san.volumes[LUN].content is None
        assert locked.json("sm", "backend_list") == []
    status, shown = at_a_terminal(locked, ADD, secret, (question, LUN))
    assert (status, PASSWORD in shown) == (0, False)
    assert "backend 1 of flavor gold is ready" in shown
    assert xapi.storage.san.volumes[LUN].content is not None
    locked.sm("volume_create", "gold", "1", "--id", "mail")
    status, shown = at_a_terminal(locked, ["sm", "volume_connection", "mail", "--secret", "chappassword"])
    assert (status, PASSWORD in shown) == (0, False)
    assert '"chappassword": "***"' in shown
    assert "chappassword: not shown at a terminal" in shown


@pytest.mark.parametrize("switch", [["--format", "/dev/sdz"], ["--json"]])
def test_a_program_and_whoever_has_named_another_device_are_not_asked(
    locked: Shell, switch: list[str]
) -> None:
    file = locked.file("chap", PASSWORD)
    add = [f"chappassword=@{file}" if word == "chappassword=" else word for word in ADD]
    status, shown = at_a_terminal(locked, [*add, *switch])
    assert (status, "Enter keeps it" in shown) == (5, False)


def test_each_backend_that_is_looked_at_is_shown_to_whoever_watches(gold: Shell) -> None:
    assert "comparing backend 1" in at_a_terminal(gold, ["sm", "audit"])[1]
    assert "backend 1 is up" in at_a_terminal(gold, ["sm", "setup"])[1]


@pytest.mark.parametrize("width", [70, 95])
def test_a_uuid_stays_in_one_piece(gold: Shell, xapi: Simulator, width: int) -> None:
    """Where a table has no room for it, each cell has a line of its own."""
    xapi.storage.shares.add_nfs("10.0.0.3").export("/vols", size=GIB)
    name = "name_label=one that has a long name, which needs more lines than one"
    uuid = gold.json("sm", "backend_add", "gold", "nfs", "server=10.0.0.3", "serverpath=/vols", name)[
        "sr_uuid"
    ]
    shown = at_a_terminal(gold, ["sm", "backend_list"], width=width)[1]
    assert uuid in shown
    assert ("\nSR" in shown.replace("\x1b[1m", "").replace("\r", "")) == (width == 70)
    assert "serverpath=/vols" in shown
