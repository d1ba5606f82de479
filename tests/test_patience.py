"""No test fails because the machine is busy, or because of what the caller of the tests has set for itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.nested import ROOT, run_pytest


def test_neither_a_slow_example_nor_slow_generation_is_a_failure() -> None:
    """Also in a test with a list of its own, which replaces that of the profile."""
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check
    lists = {
        f"{path.relative_to(ROOT)}:{node.value.lineno}": ast.unparse(node.value)
        for path in ROOT.glob("tests/**/test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "suppress_health_check"
    }
    assert lists
    assert [where for where, text in lists.items() if "too_slow" not in text] == []


@pytest.mark.slow
def test_a_slow_test_has_more_time(request: pytest.FixtureRequest) -> None:
    (timeout,) = request.node.iter_markers("timeout")
    assert timeout.args == (600,)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_slow_test_with_a_time_of_its_own_keeps_it(request: pytest.FixtureRequest) -> None:
    (timeout,) = request.node.iter_markers("timeout")
    assert timeout.args == (900,)


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_what_the_caller_has_set_for_itself_is_forgotten(workers: str, tmp_path: Path) -> None:
    """Its pool, its drivers and its terminal; not what is for the tests."""
    (tmp_path / "test_sees.py").write_text(
        "import os\n"
        "def test_sees():\n"
        "    assert not {'XENVOL_URL', 'XENVOL_DRIVER_ISCSI', 'COLUMNS', 'FORCE_COLOR'} & os.environ.keys()\n"
        "    assert os.environ['XENVOL_TEST_MARIADB'] == 'x'\n"
    )
    of_the_caller = {"XENVOL_URL": "x", "XENVOL_DRIVER_ISCSI": "x", "COLUMNS": "9", "FORCE_COLOR": "1"}
    for_tests = {"XENVOL_TEST_MARIADB": "x"}
    options: list[str | Path] = ["-p", "tests.conftest", "-W", "ignore", "--rootdir", tmp_path, "-n", workers]
    done = run_pytest(*options, tmp_path, environ={**of_the_caller, **for_tests})
    assert done.returncode == 0, done.stdout
