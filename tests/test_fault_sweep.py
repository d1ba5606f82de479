"""Every call of every operation fails in turn: refused, its answer lost, its request lost, and the host dying at it.

One run reads the journal; then each call is made to fail in a pool of its own. After a refusal the pool is as it was.
After a silence nobody knows: the same call again completes, and a detach leaves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import xenvol
from tests.scenarios import GIB, SCENARIOS, Scenario, changes, touch_hosts
from xenvol.errors import XapiError, XapiUnreachable, XenVolError
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.testing import sweep
from xenvol.volumeops import VolumeOps

pytestmark = pytest.mark.usefixtures("impatient")


@dataclass(frozen=True)
class Operation:
    name: str
    prepare: Callable[[VolumeOps, Scenario, Simulator], None]
    run: Callable[[VolumeOps, Scenario], object]

    def __str__(self) -> str:
        return self.name


def _nothing(ops: VolumeOps, scenario: Scenario, xapi: Simulator) -> None: ...


def _attached(ops: VolumeOps, scenario: Scenario, xapi: Simulator) -> None:
    ops.attach_volume(scenario.connection_info, "web", "/dev/xvdb")


def _connected_and_grown(ops: VolumeOps, scenario: Scenario, xapi: Simulator) -> None:
    ops.connect_volume(scenario.connection_info)
    scenario.grow(xapi)


ATTACH = Operation(
    "attach", _nothing, lambda ops, s: ops.attach_volume(s.connection_info, "web", "/dev/xvdb")
)
DETACH = Operation(
    "detach", _attached, lambda ops, s: ops.detach_volume(s.connection_info, "web", "/dev/xvdb")
)
EXTEND = Operation("extend", _connected_and_grown, lambda ops, s: ops.extend_volume(s.connection_info))
CONNECT = Operation("connect", _nothing, lambda ops, s: ops.connect_volume(s.connection_info))
OPERATIONS = [ATTACH, DETACH, EXTEND, CONNECT]


_SIZE = re.compile(
    r": (virtual_size|virtual_allocation|physical_size|physical_utilisation): |other_config: \[dirty\]"
)
"""Once the storage has been looked at, its new size is the truth, and the SR no longer due for a scan."""


class Trial:
    """A pool with one running VM, before and after an operation that fails at its n-th call."""

    def __init__(self, xapi: Simulator, scenario: Scenario, operation: Operation) -> None:
        self.xapi, self.scenario, self.operation = xapi, scenario, operation
        xapi.reset()
        scenario.arrange(xapi)
        touch_hosts(xapi)
        xapi.add_vm("web", resident_on=xapi.db.refs("host")[-1])
        self.pristine = xapi.snapshot()
        self.ops = self.log_in()
        operation.prepare(self.ops, scenario, xapi)
        self.before = xapi.snapshot()

    def log_in(self) -> VolumeOps:
        self.session = xenvol.connect(self.xapi.url, self.xapi.user, self.xapi.password)
        return VolumeOps(Session(self.session, sleep=lambda seconds: None))

    def run(self) -> object:
        return self.operation.run(self.ops, self.scenario)

    def difference(self, since: str) -> list[str]:
        then = self.pristine if since == "pristine" else self.before
        found = changes(then, self.xapi.snapshot())
        return [line for line in found if not (self.operation is EXTEND and _SIZE.search(line))]

    def finish(self) -> None:
        """The same call again, then a detach: nothing may be left."""
        result = self.run()
        if self.operation is EXTEND:
            assert result == 2 * GIB
        self.ops.detach_volume(self.scenario.connection_info, "web")
        if self.operation is not EXTEND:  # the storage itself was changed there
            assert self.difference("pristine") == []
        assert not self.xapi.db.refs("SR")
        assert not self.xapi.db.refs("VBD")
        assert self.xapi.db.count("secret") == self.pristine_secrets

    @property
    def pristine_secrets(self) -> int:
        return len(self.pristine.objects.get("secret", {}))


@pytest.fixture(scope="module")
def pool(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    with Simulator(hosts=request.param) as xapi:
        yield xapi


ENOUGH = {"one-host-iscsi-chap", "one-host-nfs"}
"""What `make test` sweeps: LUNs with a password, and files. `make test-slow` sweeps the others, and two hosts."""


def _pools(not_slow: Collection[str]) -> list[Any]:
    """Every scenario with one host and with two; those that are not named are swept by the slow tests."""
    pools = {
        f"{name}-{s}": (hosts, s) for hosts, name in ((1, "one-host"), (2, "two-hosts")) for s in SCENARIOS
    }
    return [
        pytest.param(*pool, id=name, marks=[] if name in not_slow else [pytest.mark.slow])
        for name, pool in pools.items()
    ]


def each_call(
    pool: Simulator, scenario: Scenario, operation: Operation, strike: sweep.Strike
) -> Iterator[sweep.Case[Trial]]:
    struck = 0
    trial = Trial(pool, scenario, operation)
    for case in sweep.each_call(pool, lambda: trial, Trial.run, strike):
        struck += 1
        yield case
    trial.session.close()
    assert struck >= 3


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
@pytest.mark.parametrize(("pool", "scenario"), _pools(ENOUGH), indirect=["pool"])
class TestSweep:
    def test_a_refused_call_leaves_the_pool_as_it_was(
        self, pool: Simulator, scenario: Scenario, operation: Operation
    ) -> None:
        """... or, where a detach had already emptied the slot, further on: then the same call again completes."""
        for case in each_call(pool, scenario, operation, sweep.refuse):
            assert isinstance(case.error, XapiError), case
            assert case.error.code == sweep.REFUSAL[0], case
            assert case.error.call == case.call, case
            assert not getattr(case.error, "__notes__", []), case
            goes_forward = operation is DETACH and not pool.db.refs("VBD")
            if not goes_forward:
                assert case.trial.difference("before") == [], case
            case.trial.finish()

    @pytest.mark.parametrize("strike", [sweep.lose_answer, sweep.lose_request])
    def test_a_lost_call_is_completed_by_the_same_call_again(
        self, pool: Simulator, scenario: Scenario, operation: Operation, strike: sweep.Strike
    ) -> None:
        for case in each_call(pool, scenario, operation, strike):
            assert case.error is None or isinstance(case.error, XapiUnreachable), case
            if case.error is not None and operation is not DETACH and strike is sweep.lose_request:
                assert case.trial.difference("before") == [], case
            case.trial.finish()

    def test_an_operation_whose_host_died_under_it_is_completed_by_the_next_process(
        self, pool: Simulator, scenario: Scenario, operation: Operation
    ) -> None:
        """Neither the operation nor its rollback gets another call through; a new log-in finds what is there."""
        for case in each_call(pool, scenario, operation, sweep.die):
            assert case.error is None or isinstance(case.error, XenVolError), case
            case.trial.ops = case.trial.log_in()
            case.trial.finish()
            case.trial.session.close()


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
@pytest.mark.parametrize(("pool", "scenario"), _pools({"one-host-iscsi"}), indirect=["pool"])
def test_an_error_after_the_deed_leaves_the_pool_as_it_was_or_is_none(
    pool: Simulator, scenario: Scenario, operation: Operation
) -> None:
    """xapi says INTERNAL_ERROR of a call that it has done (docs/background/recordings.md, finding 3 (xapi))."""
    for case in each_call(pool, scenario, operation, sweep.late_error):
        goes_forward = operation is DETACH and not pool.db.refs("VBD")
        if case.error is not None:
            assert isinstance(case.error, XapiError), case
            assert case.error.code == sweep.LATE_ERROR[0], case
            assert goes_forward or case.trial.difference("before") == [], case
        elif operation is DETACH:
            assert case.trial.difference("pristine") == [], case
        case.trial.finish()
