"""Fixtures for tests of drivers: a xapi on the wire, a session on it, and VolumeOps on that.

    def test_it(xapi, volume_ops): ...

    @pytest.mark.xapi(hosts=3, version="25.33.1")
    def test_it_in_a_pool(xapi): ...

pytest loads this module if xenvol is installed, so it imports nothing until a fixture is used.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xenvol.session import Session
    from xenvol.simulator import Simulator
    from xenvol.volumeops import VolumeOps

_MARKER = (
    "xapi(version=..., world=..., hosts=..., tls=..., storage_delays=..., host_assumed_dead_interval=...): "
    "the pool of the fixture `xapi`"
)
_SHOWN_CALLS = 50
"""The number of last calls in the report of a failed test."""
_LONGEST_LINE = 300
"""The longest line of such a call, in characters."""
_IDLE_MOST = 12
"""Simulators that are kept for later tests; each has two threads and a port."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


class _Simulators:
    """Started simulators that no test uses now, one of each kind: a reset is cheaper than a start."""

    def __init__(self) -> None:
        self._idle: dict[str, tuple[Simulator, set[str]]] = {}

    @contextlib.contextmanager
    def of_kind(self, asked: dict[str, Any]) -> Iterator[Simulator]:
        """Yield a simulator in its initial state, and keep it for the next test if this one left it started."""
        from xenvol.simulator import Simulator

        kind = repr(sorted(asked.items()))
        simulator, attributes = self._idle.pop(kind) if kind in self._idle else _started(Simulator(**asked))
        listener = simulator.journal.listener
        try:
            yield simulator
        finally:
            simulator.journal.listener = listener
            if vars(simulator).keys() == attributes and simulator.is_started and len(self._idle) < _IDLE_MOST:
                simulator.drop_connections(None)
                simulator.reset()
                self._idle[kind] = simulator, attributes
            else:
                simulator.close()

    def close(self) -> None:
        for simulator, _ in self._idle.values():
            simulator.close()


def _started(simulator: Simulator) -> tuple[Simulator, set[str]]:
    simulator.start()
    return simulator, set(vars(simulator))


@pytest.fixture(scope="session")
def _simulators() -> Iterator[_Simulators]:
    simulators = _Simulators()
    yield simulators
    simulators.close()


@pytest.fixture
def xapi(request: pytest.FixtureRequest, _simulators: _Simulators) -> Iterator[Simulator]:
    """A fresh xapi simulator: one host, every SR type, nothing else; the marker `xapi` asks for another one."""
    markers = list(
        request.node.iter_markers("xapi")
    )  # the closest first: a test's marker overrides its class's
    if any(marker.args for marker in markers):
        raise pytest.UsageError(f"the marker xapi takes keywords only, as in {_MARKER}")
    with _simulators.of_kind(
        {key: value for marker in reversed(markers) for key, value in marker.kwargs.items()}
    ) as simulator:
        yield simulator


@pytest.fixture
def xapi_session(xapi: Simulator) -> Iterator[Session]:
    """A session on `xapi`, logged in as root."""
    import xenvol

    ca_file = xapi.ca_file if xapi.tls else None
    with xenvol.connect(xapi.url, xapi.user, xapi.password, ca_file=ca_file) as session:
        yield session


@pytest.fixture
def volume_ops(xapi_session: Session) -> VolumeOps:
    """The facade: it attaches and detaches through `xapi_session`."""
    from xenvol.volumeops import VolumeOps

    return VolumeOps(xapi_session)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the calls to xapi to the report of a failed test."""
    report = yield
    simulator: Any = getattr(item, "funcargs", {}).get("xapi")
    if report.failed and call.when == "call" and hasattr(simulator, "journal"):
        entries = list(simulator.journal)
        head = [f"… {len(entries) - _SHOWN_CALLS} earlier calls"] if len(entries) > _SHOWN_CALLS else []
        lines = [textwrap.shorten(str(entry), _LONGEST_LINE) for entry in entries[-_SHOWN_CALLS:]]
        report.sections.append(("xapi calls", "\n".join([*head, *lines])))
    return report
