"""The examples do what they say: a vendor's package passes its own tests and attaches a volume; the script runs.

Nothing is installed: the package is put on sys.path with the dist-info that its pyproject.toml would come to.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.nested import run_pytest
from xenvol.drivers.registry import get_driver_class, installed_drivers
from xenvol.simulator import Simulator
from xenvol.testing.residue import changes
from xenvol.volumeops import VolumeOps

EXAMPLES = Path(__file__).parent.parent / "examples"
ACME = EXAMPLES / "acme-driver"

CONNECTION_INFO = {
    "driver_volume_type": "smb",
    "data": {
        "export": "//10.0.0.4/vols",
        "sr_uuid": "5a000000-0000-4000-8000-00000000acce",
        "vdi_uuid": "d1500000-0000-4000-8000-000000000001",
        "username": "xen",
        "password": "canary-in-the-share",
    },
}


def install(package: Path, site: Path) -> list[str]:
    """Write a dist-info for what the pyproject.toml declares; the directories to put on sys.path."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
    return [str(package), str(site)]


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    paths = install(ACME, tmp_path / "site")
    for path in paths:
        monkeypatch.syspath_prepend(path)
    return paths


@pytest.mark.timeout(600)  # more than a hundred tests in one; machines are shared
def test_the_vendors_own_tests_pass_and_none_is_skipped(acme: list[str], tmp_path: Path) -> None:
    environ = {"PYTHONPATH": os.pathsep.join(acme), "PYTHONDONTWRITEBYTECODE": "1"}
    done = run_pytest("-q", "--rootdir", ACME, ACME / "tests", cwd=tmp_path, environ=environ)
    assert done.returncode == 0, done.stdout
    summary = done.stdout.strip().splitlines()[-1]
    assert " passed" in summary
    assert not [word for word in ("failed", "error", "skipped", "warning") if word in summary]


def test_a_volume_is_attached_through_the_vendors_driver(
    acme: list[str], xapi: Simulator, volume_ops: VolumeOps
) -> None:
    """Nobody told xenvol of it: the entry point did."""
    assert get_driver_class("smb").__module__ == "acme_xenvol.driver"
    share = xapi.storage.shares.add_smb(
        "10.0.0.4", "vols", size=1 << 40, credentials=("xen", "canary-in-the-share")
    )
    data: Any = CONNECTION_INFO["data"]
    share.filesystem.root.make_directory(data["sr_uuid"]).add_vhd(data["vdi_uuid"], 1 << 30)
    xapi.add_vm("web")
    before = xapi.snapshot()
    attachment = volume_ops.attach_volume(CONNECTION_INFO, "web", "/dev/xvdc")
    assert (attachment.device, attachment.vdi_uuid) == ("xvdc", data["vdi_uuid"])
    assert xapi.db.get("VBD", attachment.vbd_ref, "currently_attached")
    volume_ops.detach_volume(CONNECTION_INFO, "web")
    assert [line for line in changes(before, xapi.snapshot()) if not line.startswith("storage.")] == []


def test_the_vendors_driver_is_listed_with_its_package_and_keys(acme: list[str]) -> None:
    (driver,) = [driver for driver in installed_drivers() if driver.name == "smb"]
    assert (driver.package, driver.version, driver.problem) == ("acme-xenvol", "1.0", None)
    assert driver.schema is not None
    assert "export" in driver.schema.__annotations__


def test_the_vendors_driver_is_short() -> None:
    """That is what xenvol.storage is for; the number is what the README of the example promises."""
    code = (ACME / "acme_xenvol" / "driver.py").read_text().splitlines()
    assert len([line for line in code if line.strip()]) <= 60


def test_the_script_attaches_and_detaches(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "attach.py")],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "volume-1 is /dev/xvdc of web\nvolume-1 is detached\n"
