"""`make` runs what is asked for, and Python keeps what it compiles."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests import needs
from tests.nested import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def make(*arguments: str, **environment: str) -> str:
    """Run make on a virtual environment that is there, as far as make can see, and return what it prints."""
    command = [needs.program("make"), "--no-print-directory", "--old-file=.venv/.installed", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        command, cwd=ROOT, env={**kept, **environment}, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("target", "options"),
    [("test", "-m 'not slow'"), ("test-slow", "-m slow"), ("test-durations", "--measure")],
)
def test_the_tests_of_some_files_are_run(target: str, options: str) -> None:
    """And of all without FILE; a variable of the caller that has this name changes nothing."""
    some = make("--dry-run", target, "FILE=tests/test_cost.py tests/sm", FILE="other")
    assert some == f".venv/bin/python -m pytest -n 3 {options} tests/test_cost.py tests/sm\n"
    assert make("--dry-run", target, FILE="other").split() == some.split()[:-2]


def test_python_keeps_what_it_compiles_in_the_virtual_environment() -> None:
    """Also where the caller has turned that off."""
    shown = make("--eval=show: ; @env", "show", PYTHONDONTWRITEBYTECODE="1").splitlines()
    assert f"PYTHONPYCACHEPREFIX={ROOT}/.venv/pycache" in shown
    assert not [line for line in shown if line.startswith("PYTHONDONTWRITEBYTECODE")]


def test_help_has_a_line_for_each_target_and_names_file() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    told = make("help")
    assert re.findall(r"^([a-z-]+)  ", told, re.MULTILINE) == phony.split()
    assert "FILE=" in told
