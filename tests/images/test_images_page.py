"""The tables of docs/images.md are those that the tests try; ``XENVOL_WRITE_DOCS=1`` writes them anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import test_bad_images
import test_image_costs
import test_image_matrix
from imagelab import DISK_SRS

PAGE = Path(__file__).parents[2] / "docs" / "images.md"
EXPORTS = ("raw", "vhd", "tarball")


def matrix() -> list[list[str]]:
    """Every cell is a case of the matrix' two tests, which try all of both lists."""
    rows = [["", *(f"`{name}`" for name in DISK_SRS)]]
    rows += [[f"in: {format}", *["h b"] * len(DISK_SRS)] for format in test_image_matrix.FORMATS]
    return rows + [[f"out: {format}", *["h b"] * len(DISK_SRS)] for format in EXPORTS]


def bad_images() -> list[list[str]]:
    rows = [["image", "error", "says"]]
    return rows + [[bad.name, f"`{bad.error.__name__}`", bad.words] for bad in test_bad_images.BAD]


def calls() -> list[list[str]]:
    return [
        ["", "http", "block"],
        *([name, *map(str, by_road)] for name, by_road in test_image_costs.CALLS.items()),
    ]


TABLES = {"matrix": matrix, "bad images": bad_images, "calls": calls}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_what_the_tests_try(name: str) -> None:
    head, *rows = TABLES[name]()
    lines = [head, ["---"] * len(head), *rows]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- /table -->)", re.DOTALL)
    text = PAGE.read_text()
    wanted = pattern.sub(lambda found: found[1] + table + found[2], text)
    if os.environ.get("XENVOL_WRITE_DOCS") == "1":
        PAGE.write_text(wanted)
    assert PAGE.read_text() == wanted, "docs/images.md is out of date: XENVOL_WRITE_DOCS=1 writes it"
