"""The first session of an administrator, as docs/storage-manager.md shows it, is run, and reads the same.

`XENVOL_WRITE_DOCS=1` writes what the commands print today into the page.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenvol.simulator import Simulator

PAGE = Path(__file__).parent.parent / "docs" / "storage-manager.md"
BEGIN, END = "<!-- transcript -->\n", "<!-- /transcript -->\n"
GIB = 1 << 30
_KEPT = (
    "PYTHONPATH",
    "PYTHONPYCACHEPREFIX",
    "TMPDIR",
)  # the code under test, where its bytecode and files are
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_DATE = re.compile(r"\d{4}-\d\d-\d\d( |T)\d\d:\d\d(:\d\d)?(\.\d+)?")


def block() -> str:
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return rest.partition(END)[0]


def commands(text: str) -> list[str]:
    return re.findall(r"^\$ (.*)$", text, re.MULTILINE)


def masked(text: str) -> str:
    """Without what no two runs have alike; columns keep their width, as every uuid is as long as any other."""
    return _DATE.sub("DATE", _UUID.sub("UUID", text))


@pytest.fixture
def environment(xapi: Simulator, tmp_path: Path) -> dict[str, str]:
    """A pool that knows none of the storage that stands ready for it."""
    xapi.storage.shares.add_nfs("10.0.0.20").export("/export/volumes", size=100 * GIB)
    disk = xapi.storage.shares.new_device(50 * GIB, serial="sdb")
    xapi.storage.host("host1").mounts.devices["/dev/sdb"] = disk
    xapi.add_vm("web")
    (tmp_path / "password").write_text(xapi.password)
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XENVOL_URL": xapi.url,
        "XENVOL_PASSWORD_FILE": str(tmp_path / "password"),
        "COLUMNS": "116",
        "TERM": "xterm",  # a dumb one has 80 columns, whatever is said
    }


def run(command: str, environment: dict[str, str]) -> str:
    """What a terminal shows of it: the result, then what went wrong."""
    master, terminal = pty.openpty()
    done = subprocess.run(
        command, shell=True, env=environment, stdout=terminal, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(terminal)
    shown = b"".join(_read(master)).decode().replace("\r\n", "\n") + done.stderr
    plain = _STYLE.sub("", shown)
    return "".join(f"{line.rstrip()}\n" for line in plain.splitlines() if line.strip())


def _read(master: int) -> Iterator[bytes]:
    try:
        while data := os.read(master, 65536):
            yield data
    except OSError:  # how the other end of a terminal says that it is closed
        os.close(master)


@pytest.mark.timeout(400)  # some twenty commands, each a process; machines are shared
@pytest.mark.slow  # some forty commands, each a process of its own
def test_the_first_session_is_as_the_page_shows_it(environment: dict[str, str], xapi: Simulator) -> None:
    shown = block()
    listed = commands(shown)
    assert len(listed) > 10
    parts = [f"$ {command}\n{run(command, environment)}" for command in listed]
    transcript = "```console\n" + "\n".join(parts) + "```\n"
    if os.environ.get("XENVOL_WRITE_DOCS"):
        PAGE.write_text(PAGE.read_text(encoding="utf-8").replace(shown, transcript), encoding="utf-8")
    assert masked(transcript) == masked(block())
    managed = [vdi for vdi in xapi.db.refs("VDI") if xapi.db.get("VDI", vdi, "managed")]
    assert (
        managed == []
    )  # what is left is the base that snapshot and clone had in common, until it is coalesced
