"""A test that needs what is not there skips, with one line that tells what to install; under CI its run fails."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests import needs
from tests.nested import ROOT, run_pytest

SKIPS = """
from tests import needs
def test_reads():
    needs.program("qemu-img")
def test_writes():
    needs.program("qemu-img")
"""


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory that is all of the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(needs, "SBIN", [])
    return tmp_path


def make_program(path: Path) -> str:
    path.touch(0o755)
    return str(path)


def test_a_program_that_is_there_is_given(bare: Path) -> None:
    """The first of those that would do."""
    mkisofs = make_program(bare / "mkisofs")
    assert needs.program("genisoimage", "mkisofs") == mkisofs
    genisoimage = make_program(bare / "genisoimage")
    assert needs.program("genisoimage", "mkisofs") == genisoimage


def test_a_program_for_administrators_is_found_where_debian_has_it(bare: Path, tmp_path: Path) -> None:
    needs.SBIN.append(str(tmp_path / "sbin"))
    (tmp_path / "sbin").mkdir()
    losetup = make_program(tmp_path / "sbin" / "losetup")
    assert needs.program("losetup") == losetup


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["qemu-img"], "needs qemu-img, which is not installed; on Debian: apt-get install qemu-utils"),
        (
            ["genisoimage", "mkisofs", "xorriso"],
            "needs genisoimage (or mkisofs or xorriso), which is not installed; on Debian: apt-get install genisoimage",
        ),
    ],
)
def test_a_program_that_is_not_there_is_told_in_one_line(bare: Path, names: list[str], line: str) -> None:
    with pytest.raises(pytest.skip.Exception) as caught:
        needs.program(*names)
    assert str(caught.value) == line


def test_each_program_that_a_test_needs_has_its_package() -> None:
    """Else the test that needs it would fail with a KeyError, and only where the program is missing."""
    sources = "\n".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    named = set(re.findall(r'needs\.program\(\s*"([\w-]+)"', sources)) | {"gzip", "zstd"}
    assert len(named) > 5
    assert named <= set(needs.DEBIAN)


def test_a_module_is_given_or_told_in_one_line() -> None:
    assert needs.module("os", "'python'") is os
    with pytest.raises(pytest.skip.Exception) as caught:
        needs.module("no_such_module", "no-such-package")
    assert str(caught.value) == (
        "needs the module no_such_module, which is not installed; pip install no-such-package"
    )


def test_root_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    needs.root("who alone gives files away")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception) as caught:
        needs.root("who alone gives files away")
    assert str(caught.value) == "needs root, who alone gives files away; the user's id is 1000"


def test_a_server_is_told_in_one_line() -> None:
    """Of the reason only the first line: PostgreSQL's has a hint in the next ones."""
    with pytest.raises(pytest.skip.Exception) as caught:
        needs.no_server("MariaDB", where="db:3306", reason=OSError("refused\nhint"), variable="XENVOL_TEST_X")
    assert (
        str(caught.value)
        == "needs MariaDB, and none answers at db:3306 (refused); XENVOL_TEST_X names another one"
    )


@pytest.mark.parametrize(
    ("workers", "where", "status"),
    [
        ("0", {}, 0),
        ("0", {"CI": "true"}, 1),
        pytest.param("1", {"CI": "true"}, 1, marks=pytest.mark.slow),
    ],
)
def test_the_summary_has_one_line_for_a_program_and_ci_fails(
    tmp_path: Path, where: dict[str, str], status: int, workers: str
) -> None:
    (tmp_path / "test_skips.py").write_text(SKIPS)
    options: list[str | Path] = [
        "-p",
        "tests.needs",
        "-ra",
        "-n",
        workers,
        "-W",
        "ignore",
        "--rootdir",
        tmp_path,
        tmp_path,
    ]
    none = "import sys; from tests import needs; needs.SBIN.clear()"
    (tmp_path / "conftest.py").write_text(none)
    done = run_pytest(*options, "--rootdir", tmp_path, tmp_path, environ={"PATH": str(tmp_path), **where})
    lines = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert len(lines) == 1, done.stdout
    assert lines[0].startswith("SKIPPED [2] ")
    assert lines[0].endswith(
        ": needs qemu-img, which is not installed; on Debian: apt-get install qemu-utils"
    )
    assert done.returncode == status


def test_no_test_has_another_way() -> None:
    """tests/cinder run in an environment of their own, with a plan of their own."""
    ways = re.compile(r"importorskip|mark\.skipif|shutil\.which\(\"")
    found = [
        path.relative_to(ROOT).as_posix()
        for path in sorted(ROOT.glob("tests/**/*.py"))
        if "cinder" not in path.parts and ways.search(path.read_text())
    ]
    assert found == ["tests/test_needs.py"]  # this one names them
