"""What the documents say is so: the tests that they name exist, their links lead somewhere, their code runs.

The README has tests of its own (test_readme.py).
"""

from __future__ import annotations

import ast
import configparser
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.nested import environment
from tests.scenarios import GIB, SR_UUID, VDI_UUID, arrange_target, iscsi
from tests.test_examples import install
from xenvol.simulator import Simulator
from xenvol.testing.conformance import DriverConformance
from xenvol.volumeops import VolumeOps

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *sorted(DOCS.rglob("*.md")),
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *(ROOT / "examples").rglob("*.md"),
]

page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


@functools.cache
def names_in(module: Path) -> frozenset[str]:
    """Its functions and classes, and the methods of those, as pytest spells them."""
    found = set()
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return frozenset(found)


@page
def test_every_test_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::([\w:]+))?`", page.read_text())
    missing = [
        f"{module}::{name}"
        for module, name in named
        if not (ROOT / module).exists() or (name and name not in names_in(ROOT / module))
    ]
    assert missing == []


def test_the_scenarios_name_a_test_or_a_reason_on_every_line() -> None:
    rows = [line for line in (DOCS / "scenarios.md").read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| scenario", "| ---"))]
    assert len(rows) >= 80
    assert [row for row in rows if "`tests/" not in row and "not apply" not in row] == []


@page
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file, and to a heading or an anchor in it."""
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)(?:#([\w-]+))?\)", page.read_text()):
        other = (page.parent / target).resolve() if target else page
        assert other.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            slugs |= set(re.findall(r'<a id="([\w-]+)">', other.read_text()))
            assert anchor in slugs, f"{page.name} links to {target}#{anchor}"


@page
def test_every_name_of_the_library_exists(page: Path) -> None:
    """`xenvol.storage`, `xenvol.errors.XapiError`…, where they are spelled in full."""
    for dotted in set(re.findall(r"`(xenvol(?:\.\w+)+)", page.read_text())) - {"xenvol.drivers"}:
        if dotted.startswith("xenvol.cinder"):  # to import it takes a Cinder, which tests/cinder have
            assert {dotted.removeprefix("xenvol.cinder.")} <= names_in(
                ROOT / "xenvol" / "cinder" / "__init__.py"
            )
            continue
        module, names = dotted, []
        while True:
            try:
                found: object = importlib.import_module(module)
                break
            except ModuleNotFoundError:
                module, _, name = module.rpartition(".")
                names.insert(0, name)
        for name in names:
            assert hasattr(found, name), f"{page.name} speaks of {dotted}"
            found = getattr(found, name)


@page
def test_every_file_of_the_tree_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"`((?:benchmarks|examples|xenvol|docs)/[\w./-]+)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@page
def test_every_block_of_python_is_python(page: Path) -> None:
    """But where dots stand for what is left out."""
    for block in code_blocks(page, "python"):
        if "…" not in block:
            compile(block, str(page), "exec")


@pytest.mark.timeout(600)  # some forty tests in one; machines are shared
def test_the_driver_of_the_guide_passes_the_test_of_the_guide(tmp_path: Path) -> None:
    """Written, shipped and tested as docs/drivers.md says, word for word."""
    guide = DOCS / "drivers.md"
    contract, driver, conformance = code_blocks(guide, "python")
    (entry_point,) = code_blocks(guide, "toml")
    exec(contract, {})
    package = tmp_path / "acme-ceph"
    (package / "acme_ceph").mkdir(parents=True)
    (package / "pyproject.toml").write_text(f'[project]\nname = "acme-ceph"\nversion = "1"\n\n{entry_point}')
    (package / "acme_ceph" / "__init__.py").touch()
    (package / "acme_ceph" / "driver.py").write_text(driver)
    (package / "test_ceph.py").write_text(conformance)
    paths = [*install(package, tmp_path / "site")]
    program = f"import sys; sys.path[:0] = {paths!r}; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    arguments = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(package)]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=package,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    summary = done.stdout.splitlines()[-1]
    assert re.search(r"\d\d passed, \d skipped", summary)


@pytest.mark.xapi(hosts=3)
@pytest.mark.parametrize("number", range(len(code_blocks(DOCS / "simulator.md", "python"))))
def test_the_blocks_of_the_simulators_page_run(number: int, xapi: Simulator, volume_ops: VolumeOps) -> None:
    """In a pool that has what they speak of."""
    arrange_target(xapi)
    xapi.storage.shares.add_nfs("10.0.0.2").export("/vols", size=100 * GIB)
    other = xapi.storage.shares.add_nfs("10.0.0.9").export("/mine", size=GIB)
    other.filesystem.root.make_directory(SR_UUID)
    device_config = {"server": "10.0.0.9", "serverpath": "/mine"}
    xapi.add_sr("mounted", type="nfs", sr_uuid=SR_UUID, device_config=device_config)
    vm = xapi.add_vm("a VM")
    names: dict[str, Any] = {
        "xapi": xapi,
        "volume_ops": volume_ops,
        "connection_info": iscsi(0),
        "vm": vm,
        "sr_uuid": SR_UUID,
        "vdi_uuid": VDI_UUID,
        "attach": lambda: volume_ops.attach_volume(iscsi(0), vm),
        "detach": lambda: volume_ops.detach_volume(iscsi(0), vm),
    }
    exec(code_blocks(DOCS / "simulator.md", "python")[number].replace("…", "..."), names)
    if "session" in names:
        names["session"]("close")()  # the official client leaves that to the garbage collector, which warns


def test_the_guide_counts_the_requirements() -> None:
    count = len([name for name in dir(DriverConformance) if name.startswith("test_")])
    assert f"get {count} requirements tested" in (DOCS / "drivers.md").read_text()


@pytest.mark.parametrize(
    ("package", "heading"),
    [
        ("xenvol", "Rooms"),
        ("xenvol.attaching", "Inside attaching"),
        ("xenvol.storage", "Inside storage"),
        ("xenvol.sm", "Inside the Storage Manager"),
        ("xenvol.images", "Inside images"),
    ],
)
def test_the_architecture_has_every_module_in_a_row(package: str, heading: str) -> None:
    """The rows of docs/architecture.md are the layers of setup.cfg, from the top down."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    (layers,) = [
        config[section]["layers"]
        for section in config.sections()
        if config[section].get("containers") == package
    ]
    expected = [set(re.split(r"[ |]+", line)) for line in layers.strip().splitlines()]
    section = (DOCS / "architecture.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == expected
