"""A replay finds every difference from a recording, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xenvol.simulator.comparison import Comparison
from xenvol.simulator.replay import read, replay, replay_file, version_of
from xenvol.simulator.shapes import Shape, shape_of
from xenvol.simulator.symbols import Symbols, Unbound

RECORDINGS = Path(__file__).parent.parent / "data" / "recordings"
SESSIONS = RECORDINGS / "v24.16.0" / "01-session.jsonl"


def differences(expected: Any, actual: Any, method: str = "x.y", symbols: Symbols | None = None) -> list[str]:
    comparison = Comparison(symbols or Symbols())
    return [str(found) for found in comparison.value(expected, actual, "result", shape_of(method))]


class TestSymbols:
    def test_a_name_has_the_value_of_its_first_match(self) -> None:
        symbols = Symbols()
        assert symbols.match("$sr", "OpaqueRef:1")
        assert symbols.match("$sr", "OpaqueRef:1")
        assert not symbols.match("$sr", "OpaqueRef:2")
        assert symbols.resolve(["$sr", {"$sr": "x $sr"}]) == ["OpaqueRef:1", {"OpaqueRef:1": "x OpaqueRef:1"}]

    def test_no_two_names_have_one_value(self) -> None:
        symbols = Symbols()
        assert symbols.match("$a", "1")
        assert not symbols.match("$b", "1")

    def test_a_name_with_a_uuid_is_one_name(self) -> None:
        symbols = Symbols()
        assert symbols.match("$sr and $sr.uuid.", "1 and 2.")
        assert symbols.resolve("$sr.uuid") == "2"

    def test_within_a_text_a_name_reaches_to_the_next_blank_or_quote(self) -> None:
        symbols = Symbols()
        assert symbols.match("VBD '$vbd.uuid' still attached to '$vm.uuid'", "VBD '1' still attached to '2'")
        assert symbols.resolve("$vm.uuid") == "2"
        assert not Symbols().match("<$a> <$a>", "<1> <2>")

    def test_a_doubled_dollar_is_a_dollar(self) -> None:
        assert Symbols().match("$$5", "$5")
        assert Symbols().resolve("$$5") == "$5"

    def test_a_failed_match_teaches_nothing(self) -> None:
        symbols = Symbols()
        symbols.match("$a", "1")
        assert not symbols.match("$b $c", "2 1")
        assert "b" not in symbols

    def test_a_name_without_a_value_cannot_be_sent(self) -> None:
        with pytest.raises(Unbound, match="sr"):
            Symbols().resolve({"$dateTime": "$sr"})


class TestComparison:
    @pytest.mark.parametrize(
        ("expected", "actual"),
        [
            (["a", "b", "b"], ["b", "a", "b"]),
            ({"a": [1]}, {"a": [1.0]}),
            ("20261121T02:35:29Z", "20300101T00:00:00Z"),
            ({"$dateTime": "20261121T02:35:29Z"}, {"$dateTime": "20300101T00:00:00Z"}),
            ([["$x", "1"], ["$y", "2"]], [["b", "2"], ["a", "1"]]),
            ({"$x": {"n": 1}, "$y": {"n": 2}}, {"q": {"n": 2}, "p": {"n": 1}}),
            ({"read-caching-enabled-on-1": "true"}, {}),
        ],
    )
    def test_these_are_the_same(self, expected: Any, actual: Any) -> None:
        assert differences(expected, actual) == []

    @pytest.mark.parametrize(
        ("expected", "actual", "found"),
        [
            (["a", "b"], ["a", "a", "b"], 'result[]: expected (absent), got "a"'),
            (["a"], [], 'result[]: expected "a", got (absent)'),
            ("5", 5, 'result: expected "5", got 5'),
            (True, 1, "result: expected true, got 1"),
            ({"a": 1}, {}, "result.a: expected 1, got (absent)"),
            ({}, {"a": 1}, "result.a: expected (absent), got 1"),
            ("20200101T00:00:00Z", "20300101T00:00:00Z",
             'result: expected "20200101T00:00:00Z", got "20300101T00:00:00Z"'),
            (["$x", "$x"], ["a", "b"], 'result[]: expected "$x", got (absent)'),
        ],
    )  # fmt: skip  # a table
    def test_these_are_not(self, expected: Any, actual: Any, found: str) -> None:
        assert found in differences(expected, actual)

    def test_the_candidate_that_fits_best_gives_a_name_its_value(self) -> None:
        symbols = Symbols()
        expected = {"$vm": {"name": "web", "memory": 1}}
        actual = {"r1": {"name": "db", "memory": 2}, "r2": {"name": "web", "memory": 2}}
        found = differences(expected, actual, symbols=symbols)
        assert found[0] == "result.$vm.memory: expected 1, got 2"
        assert symbols.resolve("$vm") == "r2"

    def test_a_volatile_field_must_be_there_with_any_value(self) -> None:
        assert differences({"uuid": "$u", "memory_free": "1"}, {"uuid": "x", "memory_free": "2"},
                           "host_metrics.get_record") == []  # fmt: skip  # reads as one comparison
        assert differences({"memory_free": "1"}, {}, "host_metrics.get_record") != []
        assert differences("1", "2", "host_metrics.get_memory_free") == []
        assert differences("1", "2", "host_metrics.get_uuid") != []

    def test_an_event_is_compared_by_its_class(self) -> None:
        event = {"class": "host", "id": "1", "snapshot": {"hostname": "a", "enabled": True}}
        batch = {"events": [event], "token": "$t", "valid_ref_counts": {}}
        other = {"class": "host", "id": "9", "snapshot": {"hostname": "b", "enabled": True}}
        assert (
            differences(batch, {"events": [other], "token": "t", "valid_ref_counts": {"a": 1}}, "event.from")
            == []
        )
        other["snapshot"]["enabled"] = False  # type: ignore[index]  # the map's values have many types
        assert (
            differences(batch, {"events": [other], "token": "t2", "valid_ref_counts": {}}, "event.from") != []
        )

    @pytest.mark.parametrize(
        ("expected", "actual", "same"),
        [
            (["INTERNAL_ERROR", "Failure(1)"], ["INTERNAL_ERROR", "else"], True),
            (["SR_FULL", "Not_found"], ["SR_FULL", "anything"], True),
            (["SESSION_AUTHENTICATION_FAILED", "u", "a"], ["SESSION_AUTHENTICATION_FAILED", "u", "b"], True),
            (["SESSION_AUTHENTICATION_FAILED", "u", "a"], ["SESSION_AUTHENTICATION_FAILED", "v", "a"], False),
            (["VDI_IN_USE", "a", "b"], ["VDI_IN_USE", "b", "a"], True),
            (["SR_HAS_PBD", "a"], ["SR_HAS_PBD", "b"], False),
            (["SR_HAS_PBD", "a"], ["SR_HAS_PBD"], False),
            (["SR_HAS_PBD"], ["SR_HAS_NO_PBDS"], False),
            ({"code": 1, "message": "A", "data": ["b"]}, {"code": 1, "message": "A", "data": ["b"]}, True),
            ({"code": 1, "message": "A", "data": ["b"]}, {"code": 1, "message": "A", "data": ["c"]}, False),
        ],
    )
    def test_of_an_error_the_code_and_every_parameter_count(
        self, expected: Any, actual: Any, same: bool
    ) -> None:
        assert (Comparison(Symbols()).error(expected, actual, "error") == []) is same

    def test_lists_can_have_an_order(self) -> None:
        comparison = Comparison(Symbols(), ordered=True)
        assert comparison.value([1, 2], [2, 1], "result") != []

    def test_a_record_may_have_more_fields_if_that_is_allowed(self) -> None:
        comparison = Comparison(Symbols(), extra_fields_ok=True)
        assert comparison.value({"a": 1}, {"a": 1, "b": 2}, "r", Shape(is_record=True)) == []
        assert comparison.value({"a": 1}, {"a": 1, "b": 2}, "r") != []


class TestFiles:
    @pytest.mark.parametrize(
        ("path", "version"),
        [
            ("v25.33.1/01-session.jsonl", "25.33.1"),
            ("v24.16.0/v25.jsonl.txt/x.jsonl", "25.33.1"),
            ("walks/v25-walk-1.jsonl", "25.33.1"),
            ("walks/v24-walk-1.jsonl", "24.16.0"),
            ("mine.jsonl", "24.16.0"),
        ],
    )
    def test_the_path_tells_the_release(self, path: str, version: str) -> None:
        assert version_of(Path(path)) == version

    @pytest.mark.parametrize("line", ["{", "[]", '{"n": 1}'])
    def test_a_line_that_is_none_is_an_error_with_its_place(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "x.jsonl"
        path.write_text(f"\n{line}\n")
        with pytest.raises(ValueError, match=r"x\.jsonl:2: "):
            list(read(path))


def tampered(path: Path, changes: dict[int, dict[str, Any]]) -> None:
    """Write the recording of sessions with some lines changed, by number; a key that becomes None is dropped."""
    lines = [{**line, **changes.get(line["n"], {})} for line in read(SESSIONS)]
    texts = [json.dumps({key: value for key, value in line.items() if value is not None}) for line in lines]
    path.write_text("\n".join(texts))


class TestReplay:
    def test_a_true_recording_has_no_divergence(self) -> None:
        result = replay_file(SESSIONS)
        assert str(result) == "51 calls, 0 divergences, 2 skipped"
        assert sum(result.skipped.values()) == 2

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({11: {"result": ["$host", "$host2"]}}, '#11 host.get_all\n  expected {"result"'),
            ({16: {"result": {"uuid": "$session.uuid"}}}, "result.originator: expected (absent), got"),
            ({15: {"result": False}}, "result: expected false, got true"),
            ({28: {"error": ["SESSION_INVALID", "OpaqueRef:other"]}}, 'error[1]: expected "OpaqueRef:other"'),
            ({28: {"error": ["SESSION_EXPIRED"]}}, 'error[0]: expected ["SESSION_EXPIRED"]'),
            ({11: {"error": ["SR_FULL"], "result": None}}, '#11 host.get_all'),
            ({11: {"params": ["$nobody"]}}, "params: expected"),
        ],
    )  # fmt: skip  # a table
    def test_a_tampered_recording_diverges_where_it_was_tampered_with(
        self, tmp_path: Path, change: dict[int, dict[str, Any]], text: str
    ) -> None:
        path = tmp_path / "v24-tampered.jsonl"
        tampered(path, change)
        result = replay_file(path)
        (n,) = change
        assert result.divergences[0].n == n
        assert text in str(result.divergences[0])

    def test_a_call_that_needs_an_object_of_a_skipped_call_is_skipped(self, tmp_path: Path) -> None:
        path = tmp_path / "x.jsonl"
        lines = [
            {"n": 1, "proto": "xmlrpc", "method": "session.login_with_password", "params": ["root", "secret"],
             "result": "$session"},
            {"n": 2, "proto": "xmlrpc", "method": "SR.create", "params": [], "result": "$sr", "skip": "local"},
            {"n": 3, "proto": "xmlrpc", "method": "SR.get_uuid", "params": ["$session", "$sr"], "result": "$u"},
        ]  # fmt: skip  # a line of a recording is a line
        path.write_text("\n".join(map(json.dumps, lines)))
        result = replay_file(path)
        assert (result.calls, result.divergences) == (1, [])
        assert result.skipped == {"local": 1, "needs an object of a skipped call": 1}

    def test_what_is_skipped_can_be_sent_for_its_effect(self, tmp_path: Path) -> None:
        path = tmp_path / "x.jsonl"
        login = {
            "n": 1,
            "proto": "jsonrpc",
            "method": "session.login_with_password",
            "params": ["root", "secret"],
        }
        lines = [
            {**login, "skip": "timing", "send": True, "result": "$session"},
            {"n": 2, "proto": "jsonrpc2", "method": "SR.get_all", "params": ["$session"], "result": []},
        ]
        path.write_text("\n".join(map(json.dumps, lines)))
        assert str(replay_file(path)) == "1 calls, 0 divergences, 1 skipped"

    def test_the_newer_release_answers_its_own_recordings_only(self) -> None:
        """The check itself works: it finds a wrong release."""
        records = RECORDINGS / "v25.33.1" / "09-records.jsonl"
        assert replay_file(records, version="24.16.0").divergences


class TestCommand:
    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "xenvol.simulator", "replay", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def test_the_last_line_counts_and_the_status_is_0(self) -> None:
        found = self.run(SESSIONS)
        assert found.returncode == 0
        assert found.stdout.splitlines()[-1] == "51 calls, 0 divergences, 2 skipped"

    def test_a_divergence_is_printed_and_the_status_is_1(self, tmp_path: Path) -> None:
        path = tmp_path / "x.jsonl"
        tampered(path, {15: {"result": False}})
        found = self.run(path, "--xapi-version", "v24.16.0")
        assert found.returncode == 1
        assert found.stdout.startswith(f"{path} #15 session.get_is_local_superuser\n")
        assert found.stdout.splitlines()[-1] == "51 calls, 1 divergences, 2 skipped"

    def test_the_result_can_be_json(self, tmp_path: Path) -> None:
        path = tmp_path / "x.jsonl"
        tampered(path, {15: {"result": False}})
        found = json.loads(self.run("--json", path, SESSIONS).stdout)
        assert (found["calls"], found["skipped"]) == (102, 4)
        (divergence,) = found["divergences"]
        assert divergence["n"] == 15
        assert divergence["differences"] == [{"path": "result", "expected": False, "got": True}]

    def test_a_file_that_is_not_there_is_told_with_status_2(self) -> None:
        found = self.run("nowhere.jsonl")
        assert found.returncode == 2
        assert "nowhere.jsonl" in found.stderr

    def test_several_files_each_start_afresh(self) -> None:
        assert replay([SESSIONS, SESSIONS]).calls == 102
