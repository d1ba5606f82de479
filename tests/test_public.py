"""docs/public.md lists what is public: each name is there, and what the documents teach is on the list."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "public.md").read_text(encoding="utf-8")
NAMES = re.findall(r"^\| `(xenvol[\w.]*(?:\.\*)?)` \|", PAGE, re.MULTILINE)
ENTRY_POINTS = {"xenvol.drivers", "xenvol.sm.policies"}
FACES = [
    "xenvol",
    "xenvol.images",
    "xenvol.session",
    "xenvol.simulator",
    "xenvol.sm",
    "xenvol.storage",
    "xenvol.testing.conformance",
]
INTERNAL = {"architecture.md", "findings.md", "public.md", "scenarios.md"}
"""Pages about xenvol itself; they teach no name."""

_FROM = re.compile(r"^[ ]*from (xenvol[\w.]*) import (\([^)]*\)|.*)$", re.MULTILINE)
_IMPORT = re.compile(r"^[ ]*import (xenvol[\w.]*)", re.MULTILINE)
_SPELLED = re.compile(r"`(xenvol(?:\.\w+)+)")


def _is_public(name: str) -> bool:
    return name in NAMES or f"{name.rpartition('.')[0]}.*" in NAMES


def _is_shown(name: str) -> bool:
    """A public name, or the module that has some."""
    return _is_public(name) or any(public.startswith(f"{name}.") for public in NAMES)


def _names_imported(text: str) -> set[str]:
    """Of a page or a module. Of a name that is imported and then used (``xenvol.connect``) the use."""
    names = {
        f"{module}.{name.split(' as ')[0].strip()}"
        for module, listed in _FROM.findall(text)
        for name in re.sub(r"#.*|[()]", "", listed).split(",")
        if name.strip()
    }
    if "xenvol" in _IMPORT.findall(text):
        names |= set(re.findall(r"(?<![`\w.\"/])(xenvol\.\w+)\(", text))
    return names | {name for name in _IMPORT.findall(text) if name != "xenvol"}


def _documents() -> list[Path]:
    return [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "examples").rglob("*.md")),
    ]


def test_no_name_is_listed_twice() -> None:
    assert len(NAMES) > 100
    assert sorted(NAMES) == sorted(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_imported(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    if module == "xenvol.cinder":  # to import it takes a Cinder, which tests/cinder have
        tree = ast.parse((ROOT / "xenvol" / "cinder" / "__init__.py").read_text(encoding="utf-8"))
        assert attribute in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        return
    found = importlib.import_module(module)
    if attribute == "*":
        assert any(not each.startswith("_") for each in vars(found))
    elif not hasattr(found, attribute):
        importlib.import_module(name)


@pytest.mark.parametrize(
    "path",
    [*_documents(), *sorted((ROOT / "examples").rglob("*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_name_that_a_document_imports_is_public(path: Path) -> None:
    names = _names_imported(path.read_text(encoding="utf-8"))
    assert sorted(name for name in names if not _is_public(name)) == []


def test_the_documents_import_something() -> None:
    taught = {name for path in _documents() for name in _names_imported(path.read_text(encoding="utf-8"))}
    assert {
        "xenvol.connect",
        "xenvol.volumeops.VolumeOps",
        "xenvol.storage",
        "xenvol.storage.SRSpec",
    } <= taught
    assert {"xenvol.testing.explorer.explore", "xenvol.sm.records.Backend"} <= taught


@pytest.mark.parametrize(
    "path",
    [path for path in _documents() if path.name not in INTERNAL],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_name_that_a_document_spells_in_full_is_public(path: Path) -> None:
    spelled = set(_SPELLED.findall(path.read_text(encoding="utf-8"))) - ENTRY_POINTS
    assert sorted(name for name in spelled if not _is_shown(name)) == []


@pytest.mark.parametrize("package", FACES)
def test_what_a_package_exports_is_public(package: str) -> None:
    """Its ``__all__``, no more and no less; modules in it have rows of their own."""
    exported = importlib.import_module(package).__all__
    listed = [name.rpartition(".")[2] for name in NAMES if name.rpartition(".")[0] == package]
    own = [name for name in listed if not (ROOT / package.replace(".", "/") / name).is_dir()]
    assert sorted(own) == sorted(exported)


def test_no_module_whose_name_says_internal_is_listed() -> None:
    assert [name for name in NAMES if re.search(r"\._(?!_version__$)", name)] == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "from xenvol.images import (\n    ImageSource,\n    sweep,  # all of it\n)\n",
            ["ImageSource", "sweep"],
        ),
        ("    from xenvol.images import export_image as out, sweep\n", ["export_image", "sweep"]),
    ],
)
def test_an_import_is_found_however_it_is_written(text: str, names: list[str]) -> None:
    assert _names_imported(text) == {f"xenvol.images.{name}" for name in names}


def test_a_name_that_is_not_on_the_list_is_not_public() -> None:
    assert not _is_public("xenvol.pool.changes.make")
    assert not _is_shown("xenvol.pool.changes")
    assert _is_public("xenvol.errors.XapiError")
    assert _is_shown("xenvol.testing.sweep")
