"""docs/findings.md names a test, or a reason, for every finding; and the named tests exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "simulator" / "sm"
PAGE = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")

NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::([\w:]+)`", PAGE)))
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| (?!---|fact|cause, code|\| fact)", line)]
ELSEWHERE = r"recording \d|^none: |^not |findings? \d|the rows above"
"""What a row has instead of a test."""


def defined_in(file: str) -> set[str]:
    """Return the tests with pytest's names, without parameters; ``tests/…`` is a path from the top."""
    module = ast.parse(
        (ROOT / file if file.startswith("tests/") else HERE / file).read_text(encoding="utf-8")
    )
    functions = {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
    methods = {
        f"{cls.name}::{node.name}"
        for cls in module.body
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
        if isinstance(node, ast.FunctionDef)
    }
    return {name for name in functions | methods if name.split("::")[-1].startswith("test_")}


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_test_that_is_named_exists(file: str) -> None:
    named = {name for where, name in NAMED if where == file}
    assert named - defined_in(file) == set()


def test_every_row_names_a_test_or_says_what_else_holds_it() -> None:
    assert len(ROWS) > 130
    held = [row.strip("| ").split(" | ")[-1] for row in ROWS]
    assert [text for text in held if ".py::" not in text and not re.search(ELSEWHERE, text)] == []


def test_every_numbered_finding_and_contradiction_has_a_row() -> None:
    numbered = re.findall(r"^\| (\d+) \| ", PAGE, re.MULTILINE)
    assert numbered.count("13") > 1
    assert {*numbered} == {str(number) for number in range(1, 17)}


def test_every_file_of_findings_is_named() -> None:
    files = {path.name for path in HERE.glob("test_findings_*.py")}
    assert files - {file for file, _ in NAMED} == set()


def test_every_recording_is_played() -> None:
    recordings = {path.name.split("-")[0] for path in (ROOT / "tests/data/recordings/sm").glob("*.jsonl")}
    played = {path.stem.removeprefix("test_recorded_") for path in HERE.glob("test_recorded_*.py")}
    assert recordings - played == set()
