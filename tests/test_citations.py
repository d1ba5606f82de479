"""What the code cites is in the repository: every citation of a page of docs/background leads to its section.

A citation is the page and what it means there: a section ("xapi.md 4.6"), a finding ("recordings.md, finding 12
(storage)"), a contradiction, a requirement ("R6 of requirements.md"), or a name that is a heading or the first cell of
a row ("xapi.md, PBD.plug", "recordings.md, CHAP secrets"). A finding that is cited without its series is one of
storage.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BACKGROUND = ROOT / "docs" / "background"
FOLDERS = ["benchmarks", "docs", "examples", "tests", "xenvol"]

NOTES = re.compile(r"\bfact[s]/|\btruth[.]md|\bsm-trut[h]\b", re.IGNORECASE)

_SECTION = r"(?:[a-e]\.\d+|\d+[a-e]|\d+(?:\.\d+)?)(?![\w/])"
_NUMBER = r"\d+(?!\w)"
_PAGE = r"(?:docs/)?(?:background/)?\b(xapi|recordings|peers|requirements|storage-drivers)\.md\b[\]`]*"


def _list(of: str) -> str:
    return rf"({of}(?:(?:,|,? and) {of})*)"


UNKNOWN_PAGE = re.compile(r"\bdocs/background/([\w-]+)\.md")
CITATION = re.compile(_PAGE)
SECTIONS = re.compile(rf",? {_list(_SECTION)}(?:(?:,| \() ?([A-Za-z]+\.[a-z]\w+))?")
FINDINGS = re.compile(rf"\bfindings? {_list(_NUMBER)}(?: \((\w+)\))?", re.IGNORECASE)
CONTRADICTIONS = re.compile(rf",? contradictions? {_list(_NUMBER)}", re.IGNORECASE)
QUOTED = re.compile(r',? "([^"]+)"')
NAMED = re.compile(
    r", (?:the )?(?:tables? of |findings on )?(?!findings? \d)(?!and )`?(.+?)(?=[);:`\"]|\.(?!\w)|$)"
)
BEFORE = re.compile(rf'(?:\b(R\d+)|"([^"]+)") (?:of|in) {_PAGE}')


@functools.cache
def _targets(page: str) -> frozenset[str]:
    """Everything on a page that a citation can mean, in lower case: numbers, anchors, headings, first cells.

    Of a heading that lists several things ("lvm, ext, hba") each one is a name.
    """
    text = (BACKGROUND / f"{page}.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    numbers = [
        match[0] for heading in headings if (match := re.match(r"(?:[a-e]\.\d+|\d+(?:\.\d+)?)\b", heading))
    ]
    cells = [cell.replace("`", "") for cell in re.findall(r"^\| ([^|]+?) \|", text, re.MULTILINE)]
    parts = [part for name in [*headings, *cells] for part in re.split(r", | and |: ", name)]
    anchors = re.findall(r'<a id="([\w-]+)">', text)
    return frozenset(target.lower() for target in [*headings, *numbers, *cells, *parts, *anchors])


def _has_name(page: str, name: str) -> bool:
    """Whether a heading or a first cell begins with the name, or with what is before one of its commas."""
    parts = name.strip(" .…").lower().split(", ")
    candidates = [", ".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(
        re.match(rf"(?:[\w.]+ )?{re.escape(candidate)}(?!\w)", target)
        for candidate in candidates
        for target in _targets(page)
    )


def _missing_findings(text: str) -> Iterator[str]:
    for numbers, series in FINDINGS.findall(text):
        for number in re.findall(r"\d+", numbers):
            if f"{series or 'storage'}-{number}" not in _targets("recordings"):
                yield f"no finding {number} ({series or 'storage'})"


def _missing_there(page: str, rest: str) -> Iterator[str]:
    """What a citation means by the text after the page's name, and the page has not."""
    if match := SECTIONS.match(rest):
        sections = re.findall(_SECTION, match[1])
        yield from (f"no {each} in {page}.md" for each in sections if each not in _targets(page))
        if match[2] and match[2].lower() not in _targets(page):
            yield f"no {match[2]} in {page}.md"
    elif match := CONTRADICTIONS.match(rest):
        for number in re.findall(r"\d+", match[1]):
            if f"contradiction-{number}" not in _targets(page):
                yield f"no contradiction {number} in {page}.md"
    else:
        match = QUOTED.match(rest) or NAMED.match(rest)
        if match and not CITATION.match(match[1]) and not _has_name(page, match[1]):
            yield f'no "{match[1]}" in {page}.md'


def wrong_citations(text: str) -> list[str]:
    """What a text cites and docs/background has not."""
    flat = re.sub(r"\s*\n[ \t]*(?:#(?!#) ?)?", " ", text)
    flat = re.sub(r"\]\([^)\s]*\)", "]", flat)  # where links lead is for test_docs.py
    wrong = [
        f"no page docs/background/{name}.md"
        for name in UNKNOWN_PAGE.findall(flat)
        if not (BACKGROUND / f"{name}.md").exists()
    ]
    for match in CITATION.finditer(flat):
        wrong += _missing_there(match[1], flat[match.end() : match.end() + 160])
    for requirement, name, page in BEFORE.findall(flat):
        if not _has_name(page, requirement or name):
            wrong.append(f"no {requirement or name} in {page}.md")
    return [*wrong, *_missing_findings(flat)]


def _files() -> list[Path]:
    """Every text that people wrote; the recordings are data."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    found += [path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".")]
    return sorted(
        path for path in found if path.suffix in {".cfg", ".json", ".md", ".py", ".toml", ".yaml", ""}
    )


def test_every_citation_leads_to_a_page_and_to_its_section() -> None:
    texts = [path for path in _files() if path.suffix in {".md", ".py"} and path != Path(__file__)]
    wrong = {str(path.relative_to(ROOT)): wrong_citations(path.read_text(encoding="utf-8")) for path in texts}
    assert len(wrong) > 500
    assert {path: missing for path, missing in wrong.items() if missing} == {}


def test_nothing_cites_notes_that_are_not_in_the_repository() -> None:
    citing = [path for path in _files() if NOTES.search(path.read_text(encoding="utf-8"))]
    names = [str(path.relative_to(ROOT)) for path in citing]
    assert names == []


@pytest.mark.parametrize(
    "right",
    [
        "docs/background/xapi.md 4.6",
        "docs/background/xapi.md 2, 5.3)",
        "docs/background/xapi.md 2.4, PBD.create.",
        "docs/background/xapi.md 2.4 (VBD.plug); traces 04",
        "docs/background/xapi.md, SR.scan)",
        "docs/background/xapi.md 2.4, end; recordings.md finding 8)",
        "docs/background/recordings.md,\n    finding 3 (xapi))",
        "docs/background/recordings.md findings 1 and 12)",
        "finding 12 of docs/background/recordings.md",
        "recordings.md, contradiction 3)",
        "recordings.md, CHAP\n# secrets).",
        'docs/background/recordings.md, "int arguments").',
        '"iSCSI errors" in docs/background/recordings.md',
        "recordings.md, findings on file and nfs, has what follows",
        "recordings.md, lvm, ext)",
        "recordings.md, findings on nfs: one test for each",
        "recordings.md, LUN-per-VDI (type iscsi): one test for each",
        "recordings.md, VBD.create)",
        "recordings.md, 20e), so",
        "docs/background/peers.md a.8, e.2)",
        "R6 of\n    docs/background/requirements.md",
        "docs/background/requirements.md 0.1",
        "docs/background/storage-drivers.md)",
        "[xapi.md](xapi.md#46-events) 4.6",
    ],
)
def test_a_right_citation_is_taken(right: str) -> None:
    assert wrong_citations(right) == []


@pytest.mark.parametrize(
    ("wrong", "missing"),
    [
        ("docs/background/nova.md a.8", "no page docs/background/nova.md"),
        ("docs/background/xapi.md 4.60", "no 4.60 in xapi.md"),
        ("docs/background/xapi.md 2, 5.9)", "no 5.9 in xapi.md"),
        ("docs/background/xapi.md 2.4, PBD.attach.", "no PBD.attach in xapi.md"),
        ("docs/background/xapi.md, SR.look)", 'no "SR.look" in xapi.md'),
        ("docs/background/recordings.md, finding 14)", "no finding 14 (storage)"),
        ("docs/background/recordings.md,\n    finding 13 (xapi))", "no finding 13 (xapi)"),
        ("findings 1 and 31 of docs/background/recordings.md", "no finding 31 (storage)"),
        ("a plugged disk (finding 80)", "no finding 80 (storage)"),
        ("recordings.md, finding 1 (nova)", "no finding 1 (nova)"),
        ("recordings.md, contradiction 17)", "no contradiction 17 in recordings.md"),
        ("recordings.md, last section, finding 1)", 'no "last section, finding 1" in recordings.md'),
        ("recordings.md, CHAP\n# keys).", 'no "CHAP keys" in recordings.md'),
        ('docs/background/recordings.md, "float arguments").', 'no "float arguments" in recordings.md'),
        ("recordings.md, 20f), so", 'no "20f" in recordings.md'),
        ("docs/background/peers.md a.8, e.3)", "no e.3 in peers.md"),
        ("R60 of\n    docs/background/requirements.md", "no R60 in requirements.md"),
    ],
)
def test_a_wrong_citation_is_told(wrong: str, missing: str) -> None:
    assert wrong_citations(wrong) == [missing]
