"""What import-linter's contracts in setup.cfg leave open: complete lists, and a few laws of the files."""

from __future__ import annotations

import ast
import configparser
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "xenvol"
MODULES = sorted(PACKAGE.rglob("*.py"))


def contract(name: str) -> configparser.SectionProxy:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config[f"importlinter:contract:{name}"]


def imported(module: Path) -> Iterator[str]:
    """The packages that it imports from anywhere in it, for types too."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports are absolute, so that a driver looks like a stranger's"
            yield str(node.module).partition(".")[0]


def test_the_simulator_is_kept_from_every_module_of_the_library() -> None:
    there = {f"xenvol.{path.stem}" for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    forbidden = set(contract("simulator")["forbidden_modules"].split())
    assert there - forbidden <= {"xenvol.simulator", "xenvol.__init__", "xenvol.__pycache__"}
    assert forbidden <= there


def test_the_simulator_imports_the_standard_library_and_itself() -> None:
    """A contract can only forbid the packages that it lists; this allows none."""
    for module in (PACKAGE / "simulator").rglob("*.py"):
        assert set(imported(module)) <= {*sys.stdlib_module_names, "xenvol"}, module


def test_every_module_opens_with_its_law() -> None:
    trees = {module: ast.parse(module.read_text()) for module in MODULES}
    assert [module for module, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


def test_an_import_inside_a_function_says_why() -> None:
    """It hides a cycle, or saves time on purpose; then its line says so, or the law of the module."""
    silent = []
    for module in MODULES:
        text = module.read_text()
        if "it imports nothing until" in text:
            continue
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                nodes = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
                lines = [text.splitlines()[node.lineno - 1] for node in nodes]
                silent += [f"{module}: {line.strip()}" for line in lines if "#" not in line]
    assert silent == []
