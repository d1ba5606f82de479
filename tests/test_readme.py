"""What the README shows can be run as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios import GIB, arrange_target, iscsi
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_first_example_attaches_and_detaches(xapi: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    """On a simulated pool in the place of the one that it names."""
    arrange_target(xapi)
    xapi.add_vm("web")
    exec(PYTHON[0].replace("https://xen1.example.com", xapi.url), {"password": xapi.password})
    assert capsys.readouterr().out.startswith("xvdb ")
    assert xapi.db.refs("VBD") == xapi.db.refs("SR") == []


def test_the_example_of_a_test_passes(xapi: Simulator, volume_ops: VolumeOps) -> None:
    names: dict[str, Any] = {"connection_info": iscsi(0)}
    exec(PYTHON[1], names)
    names["test_a_volume_that_cannot_be_plugged_leaves_nothing"](xapi, volume_ops)
    assert xapi.storage.san.volumes
    assert len(xapi.faults.orders) == 0
    assert all(lun.size == GIB for lun in xapi.storage.san.volumes.values())


def test_every_file_that_it_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_commands_that_it_begins_with_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\S+)", README, re.MULTILINE)
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
