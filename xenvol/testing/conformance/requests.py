"""The requirements on requests: a missing or wrong key, and a disk that differs from its description."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from xenvol.connection_data.frozen import freeze_map
from xenvol.errors import InvalidConnectionInfo, WrongVolume, XenVolError
from xenvol.testing.conformance.bench import Bench
from xenvol.testing.conformance.kit import Kit
from xenvol.testing.conformance.requirement import require

_WRONG = {"a mapping": ["where", "none", "is", "expected"]}
_REMEDY = (
    "let connect_volume check connection_data first, and raise InvalidConnectionInfo(key, driver, accepted=…); "
    "xenvol.connection_data.keys.read does so from a table of the keys"
)


class Requests(Kit):
    def test_no_data_at_all_is_refused(self, bench: Bench) -> None:
        error = self._refused(bench, {}, "connection_data is empty")
        require(
            isinstance(error, InvalidConnectionInfo),
            f"connection_data was empty, and connect_volume {_outcome(error)}; {_REMEDY}",
        )

    def test_a_missing_key_is_named(self, bench: Bench) -> None:
        """A key that is not needed may be absent; the error names a needed one before any call."""
        for key in bench.data:
            data = {other: value for other, value in bench.data.items() if other != key}
            error = self._refused(bench, data, f"{key} is missing")
            if error is not None and key not in self.optional_keys:
                self._check_named(error, key, "was missing")

    def test_a_value_of_the_wrong_type_is_named(self, bench: Bench) -> None:
        for key in bench.data:
            error = self._refused(bench, {**bench.data, **freeze_map({key: _WRONG})}, f"{key} is a mapping")
            if error is not None:
                self._check_named(error, key, "was a mapping")

    def test_a_disk_of_another_size_than_the_one_described_is_not_connected(self, bench: Bench) -> None:
        """The driver compares the VDI with what the data can prove, before the VDI can be plugged."""
        schema = getattr(bench.driver_class, "connection_data_schema", None)
        if "size_bytes" not in getattr(schema, "__annotations__", {}) and not hasattr(schema, "size_bytes"):
            pytest.skip("connection_data_schema has no size_bytes, so the data proves no size")
        data = {**bench.data, "size_bytes": 12345}
        error = self._refused(bench, data, "the disk has another size", may_call=True)
        require(
            isinstance(error, WrongVolume),
            f"connection_data said 12345 bytes, and connect_volume {_outcome(error)}: compare with the VDI's "
            "virtual_size before returning, and raise WrongVolume (xenvol.connection_data.identity does so)",
        )

    def _refused(
        self, bench: Bench, data: Mapping[str, object], what: str, *, may_call: bool = False
    ) -> Exception | None:
        """Return the error of connect_volume in a new pool, which must stay as it was; None if it succeeds."""
        bench.begin()
        mark = bench.xapi.journal.mark()
        error = _error_of_connect(bench, data)
        if error is None:
            return None
        changing = bench.changing_calls(bench.xapi.journal.since(mark).methods())
        is_late = bool(changing) and isinstance(error, InvalidConnectionInfo) and not may_call
        require(
            not is_late,
            f"{what}: connect_volume called {', '.join(changing)} before it raised the error; {_REMEDY}",
        )
        bench.check_nothing_left(
            f"{what}: after connect_volume and rollback", "take back what was done: self.undo"
        )
        return error

    def _check_named(self, error: Exception, key: str, what: str) -> None:
        hint = f"; or list {key!r} in optional_keys" if isinstance(error, XenVolError) else ""
        require(
            isinstance(error, InvalidConnectionInfo),
            f"key {key!r} {what}, and connect_volume {_outcome(error)}; {_REMEDY}{hint}",
        )
        is_named = getattr(error, "key", None) == key or re.search(rf"\b{re.escape(key)}\b", str(error))
        require(is_named, f"key {key!r} {what}, and the error of connect_volume names another key: {error}")


def _error_of_connect(bench: Bench, data: Mapping[str, object]) -> Exception | None:
    try:
        bench.connect(data=data)
    except AssertionError:
        raise  # a rollback that raises breaks a requirement of its own
    except Exception as error:  # noqa: BLE001  # the caller judges every error
        return error
    return None


def _outcome(error: Exception | None) -> str:
    return "succeeded" if error is None else f"raised {type(error).__name__}: {error}"
