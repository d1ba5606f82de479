"""The commands of docs/disaster.md are run on a simulated pool, and print what the page shows.

`XENVOL_WRITE_DOCS=1` writes what the commands print today into the page.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.sm.backend_lab import another_pool
from tests.test_first_session import GIB, commands, environment, masked, run
from xenvol.simulator import Simulator

__all__ = ["environment"]  # a fixture

PAGE = Path(__file__).parent.parent / "docs" / "disaster.md"
_BLOCK = re.compile(
    r"(?<=<!-- transcript: )(?P<name>[\w ]+) -->\n```console\n(?P<text>.*?)```(?=\n<!-- /transcript -->)",
    re.DOTALL,
)


def check_block(name: str, environment: dict[str, str]) -> None:
    """Run the commands of a block, and compare what they print with the page."""
    page = PAGE.read_text(encoding="utf-8")
    (block,) = [found for found in _BLOCK.finditer(page) if found["name"] == name]
    parts = [f"$ {command}\n{run(command, environment)}" for command in commands(block["text"])]
    assert len(parts) > 1
    printed = "\n".join(parts)
    if os.environ.get("XENVOL_WRITE_DOCS"):
        page = page[: block.start("text")] + printed + page[block.end("text") :]
        PAGE.write_text(page, encoding="utf-8")
    else:
        assert masked(block["text"]) == masked(printed)


@pytest.mark.timeout(400)  # some thirty commands, each a process; machines are shared
@pytest.mark.slow  # the same
def test_each_disaster_ends_as_the_page_shows_it(environment: dict[str, str], xapi: Simulator) -> None:
    def sm(*words: str) -> None:
        run(f"xenvol sm {' '.join(words)}", environment)

    home = Path(environment["HOME"])
    database = home / ".local" / "share" / "xenvol" / "sm.sqlite"
    sm("flavor_create", "gold", "x")
    sm("backend_add", "gold", "nfs", "server=10.0.0.20", "serverpath=/export/volumes")
    for volume_id in ("web-data", "old-data"):
        sm("volume_create", "gold", "10", "--id", volume_id)
    sm("volume_snapshot", "web-data", "--id", "web-monday")

    for each in database.parent.iterdir():
        each.unlink()
    check_block("database lost", environment)

    shutil.copy(database, home / "backup")
    sm("volume_create", "gold", "10", "--id", "new-data")
    sm("volume_delete", "old-data")
    for each in database.parent.iterdir():
        each.unlink()
    shutil.copy(home / "backup", database)
    check_block("database older", environment)

    with another_pool(xapi) as other:
        new = {**environment, "XENVOL_URL": other.url}
        check_block("pool lost", new)
        server = xapi.storage.shares.nfs_server("10.0.0.20")
        server.is_listening = False
        server.unexport("/export/volumes")
        xapi.storage.shares.add_nfs("10.0.0.21").export("/export/volumes", size=100 * GIB)
        check_block("SR lost", new)
        assert len(other.db.refs("SR")) == 1
