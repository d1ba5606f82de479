"""The simulator answers every recorded call as the real xapi did."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenvol.simulator.replay import replay_file

RECORDINGS = Path(__file__).parent / "data" / "recordings"
SLOW = "12-concurrency.jsonl"
"""Two minutes: it waits for what xapi waits for."""

FOLDERS = {"v24.16.0": 12, "v25.33.1": 12, "walks": 7}
"""How many recordings each must have; those in ``sm`` cannot be replayed (tests/simulator/sm builds their worlds)."""

FILES = [path for folder in FOLDERS for path in sorted((RECORDINGS / folder).glob("*.jsonl"))]


def _as_case(path: Path) -> object:
    marks = [pytest.mark.slow, pytest.mark.timeout(400)] if path.name == SLOW else []
    return pytest.param(path, id=f"{path.parent.name}/{path.stem}", marks=marks)


@pytest.mark.parametrize("path", [_as_case(path) for path in FILES])
def test_a_recording_is_answered_without_divergence(path: Path) -> None:
    result = replay_file(path)
    assert result.calls > 0
    assert not result.divergences, "\n\n".join(map(str, [*result.divergences[:20], result]))


def test_all_recordings_are_there() -> None:
    """A missing folder would make the test above pass by having nothing to do."""
    assert {folder: len(list((RECORDINGS / folder).glob("*.jsonl"))) for folder in FOLDERS} == FOLDERS
