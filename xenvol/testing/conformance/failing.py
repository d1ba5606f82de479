"""The requirements on failures: each call is refused or lost in turn; the storage is gone or is another one.

A refused call did not happen, so after rollback the pool is as it was. After a missing answer the state is
unknown: the same call again, in another process, completes, or disconnect_volume cleans up.
"""

from __future__ import annotations

import pytest

from xenvol.errors import UnsupportedSRType, VolumeNotFound, XapiError, XapiUnreachable, XenVolError
from xenvol.testing import sweep
from xenvol.testing.conformance.bench import Bench
from xenvol.testing.conformance.kit import Kit
from xenvol.testing.conformance.requirement import listed, must_pass, require

_TAKE_BACK = "record each change on the line after it: self.undo.did(…), and nothing before it has succeeded"
_CONVERGE = (
    "after a lost answer check if the object exists, and record it if so; derive uuids (of the SR…) from the data, "
    "so that the next attempt finds the object"
)
_STRIKES = pytest.mark.parametrize("strike", [sweep.lose_answer, sweep.lose_request])


class Failing(Kit):
    def test_a_refused_call_of_connect_is_rolled_back(self, bench: Bench) -> None:
        """The refusal is raised unchanged, or is the cause of the raised error, and nothing stays behind."""
        for case in bench.each_call(Bench.connect, sweep.refuse):
            require(
                case.error is None or _is_the_refusal(case.error),
                f"{case}: that hides xapi's error; let the XapiError through, or raise another error of "
                "xenvol.errors from it",
            )
            if case.error is not None:
                bench.check_nothing_left(f"{case}; after rollback", _TAKE_BACK)
            self._check_completes(bench, case)

    @_STRIKES
    def test_a_lost_call_of_connect_is_completed_by_the_same_call_again(
        self, bench: Bench, strike: sweep.Strike
    ) -> None:
        for case in bench.each_call(Bench.connect, strike):
            _check_silence(case)
            if case.error is not None and strike is sweep.lose_request:
                bench.check_nothing_left(f"{case}; after rollback", _TAKE_BACK)
            self._check_completes(bench, case)

    def test_a_connect_that_was_killed_is_completed_by_the_same_call_again(self, bench: Bench) -> None:
        """Neither the connect nor its rollback made another successful call."""
        for case in bench.each_call(Bench.connect, sweep.die):
            _check_silence(case)
            self._check_completes(bench, case)

    def test_a_connect_that_was_killed_is_cleaned_up_by_a_disconnect(self, bench: Bench) -> None:
        """The process that deletes the volume then finds the remains by the data alone."""
        for case in bench.each_call(Bench.connect, sweep.die):
            self._check_cleans_up(bench, case)

    def test_a_refused_call_of_disconnect_is_completed_by_the_same_call_again(self, bench: Bench) -> None:
        for case in bench.each_call(Bench.disconnect, sweep.refuse, begin=lambda: _connected(bench)):
            require(
                case.error is None or _is_the_refusal(case.error),
                f"{case}: that hides xapi's error; let the XapiError through, or raise another error of "
                "xenvol.errors from it",
            )
            require(
                case.error is not None or not bench.changes(),
                f"{case}, and left something:\n{listed(bench.changes())}\n"
                "without an error the caller does not call again: let the XapiError through",
            )
            self._check_cleans_up(bench, case)

    @_STRIKES
    def test_a_lost_call_of_disconnect_is_completed_by_the_same_call_again(
        self, bench: Bench, strike: sweep.Strike
    ) -> None:
        for case in bench.each_call(Bench.disconnect, strike, begin=lambda: _connected(bench)):
            _check_silence(case)
            self._check_cleans_up(bench, case)

    def test_an_sr_type_that_no_host_offers_is_refused_before_anything_is_made(self, bench: Bench) -> None:
        sr_type = bench.xapi.db.get("SR", bench.sr_of(bench.connect()), "type")
        bench.begin()
        with bench.xapi.xapi.lock:
            for ref in bench.xapi.db.refs("SM"):
                if bench.xapi.db.get("SM", ref, "type") == sr_type:
                    bench.xapi.db.delete("SM", ref)
        bench.remember()
        with bench.xapi.journal.recording() as calls:
            error = _error_of_connect(bench, f"no host offers SRs of type {sr_type}")
        changing = bench.changing_calls(calls.methods())
        require(
            isinstance(error, UnsupportedSRType),
            f"no host offers SRs of type {sr_type}, and connect_volume raised {type(error).__name__}: {error}; "
            "ask first (storage.require_sr_type), and raise UnsupportedSRType",
        )
        require(
            not changing,
            f"no host offers SRs of type {sr_type}, and connect_volume called {', '.join(changing)} before it "
            "checked that: ask first (storage.require_sr_type)",
        )

    def test_storage_that_does_not_answer_leaves_nothing(self, bench: Bench) -> None:
        self.break_storage(bench.xapi)
        bench.remember()
        _error_of_connect(bench, "the storage does not answer")
        bench.check_nothing_left("the storage does not answer; after rollback", _TAKE_BACK)

    def test_a_volume_that_is_not_there_is_not_found(self, bench: Bench) -> None:
        self.remove_volume(bench.xapi)
        bench.remember()
        error = _error_of_connect(bench, "the storage has no such volume")
        require(
            isinstance(error, VolumeNotFound),
            f"the storage has no such volume, and connect_volume raised {type(error).__name__}: {error}; raise "
            "VolumeNotFound, with what is there instead",
        )
        bench.check_nothing_left("the storage has no such volume; after rollback", _TAKE_BACK)

    def test_a_volume_that_vanished_is_disconnected_all_the_same(self, bench: Bench) -> None:
        bench.connect()
        self.remove_volume(bench.xapi)
        with must_pass("the volume vanished from the storage, and disconnect_volume was called", _CONVERGE):
            bench.disconnect()
        left = [line for line in bench.changes() if not line.startswith(("storage.servers", "storage.luns"))]
        require(not left, f"the volume vanished, and after disconnect_volume there is left:\n{listed(left)}")

    # ---- checks after a case

    def _check_completes(self, bench: Bench, case: sweep.Case[Bench]) -> None:
        bench.log_in()
        with must_pass(f"{case}; then connect_volume was called again", _CONVERGE):
            bench.check_reachable(bench.connect(), bench.hosts)
        self._check_cleans_up(bench, case)

    def _check_cleans_up(self, bench: Bench, case: sweep.Case[Bench]) -> None:
        bench.log_in()
        with must_pass(f"{case}; then disconnect_volume was called", _CONVERGE):
            bench.disconnect()
        bench.check_nothing_left(f"{case}; after disconnect_volume", _CONVERGE)


def _connected(bench: Bench) -> Bench:
    bench.begin().connect()
    return bench


def _is_the_refusal(error: BaseException) -> bool:
    """Return True if this is xapi's refusal, or an xenvol error raised from it."""
    if isinstance(error, XapiError) and error.code == sweep.REFUSAL[0]:
        return True
    return isinstance(error, XenVolError) and error.__cause__ is not None and _is_the_refusal(error.__cause__)


def _check_silence(case: sweep.Case[Bench]) -> None:
    require(
        case.error is None or _is_silence(case.error),
        f"{case}: that hides that the outcome is unknown; let the XapiUnreachable through, or raise another error of "
        "xenvol.errors from it",
    )


def _is_silence(error: BaseException) -> bool:
    if isinstance(error, XapiUnreachable):
        return True
    return isinstance(error, XenVolError) and error.__cause__ is not None and _is_silence(error.__cause__)


def _error_of_connect(bench: Bench, what: str) -> XenVolError:
    try:
        vdi_ref = bench.connect()
    except XenVolError as error:
        return error
    except AssertionError:
        raise  # a rollback that raises breaks a requirement of its own
    except Exception as error:
        raise AssertionError(
            f"{what}, and connect_volume raised {type(error).__name__}: {error}; raise an error of xenvol.errors, "
            "whose class says who is to blame"
        ) from error
    raise AssertionError(f"{what}, and connect_volume returned {vdi_ref!r}: raise an error of xenvol.errors")
