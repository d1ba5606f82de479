"""Eight services work with one pool and one database, and are killed at random moments: afterwards the two agree.

Each is its own process, logged in over the wire; SIGKILL ends it at any point, and another takes its place. XENVOL_SEED
repeats a run, as far as processes can be repeated.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.sm import service
from tests.sm.conftest import GIB, NFS, NFS_2, arrange_storage, log_in, on_servers, vdi_uuids
from tests.sm.service import Event
from xenvol.secret import Secret
from xenvol.simulator import Simulator
from xenvol.sm import Database, StorageManager
from xenvol.sm.audit import AuditReport
from xenvol.sm.errors import BackendExists
from xenvol.testing.residue import touch_hosts

SERVICES = 8
IQN = "iqn.2010-10.org.example:store"
LUN = "36001405000000000000000000000000a"
CHAP = ("initiator", "canary-5ecret-p4ssword")
LONG = [pytest.mark.slow, pytest.mark.long]
CONFIG = {"target": "10.0.0.1", "targetIQN": IQN, "SCSIid": LUN, "chapuser": CHAP[0]}

machines = multiprocessing.get_context("forkserver")
machines.set_forkserver_preload(["tests.sm.service"])  # so that a new service is there in milliseconds


@dataclass
class Zone:
    """A pool, a database, and the services that use both."""

    xapi: Simulator
    database_url: str
    directory: Path
    seed: int
    random: random.Random = field(init=False)
    running: list[tuple[BaseProcess, Path]] = field(default_factory=list)
    killed: dict[Path, float] = field(default_factory=dict)
    """When each service was killed, by the clock that all processes share."""
    started: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def start(self, target: Callable[..., None] = service.run, *more: object) -> None:
        self.started += 1
        ledger = self.directory / f"{self.started}.jsonl"
        place = service.Place(self.xapi.url, self.xapi.user, self.xapi.password, self.database_url)
        seed = self.seed * 1000 + self.started
        process = machines.Process(target=target, args=(place, str(ledger), seed, *more), daemon=True)
        process.start()
        self.running.append((process, ledger))

    def kill(self, index: int) -> None:
        process, ledger = self.running.pop(index)
        is_alive = process.is_alive()
        process.kill()
        process.join()
        if is_alive:
            self.killed[ledger] = time.monotonic()
        process.close()

    def kill_all(self) -> None:
        while self.running:
            self.kill(0)

    def let_calls_end(self) -> None:
        """Wait until the pool has finished the last calls of killed services. On a busy machine they can run after an
        audit has read the pool. The manager's connection stays."""
        while self.xapi.connections > 1:
            time.sleep(0.01)

    def events(self) -> Iterator[tuple[Event, float]]:
        """Return all that any service did, each with the moment after which it does no more."""
        for path in sorted(self.directory.glob("*.jsonl")):
            for event in service.events_of(path):
                over = self.killed.get(path, float("inf")) if event.ended is None else event.ended
                yield event, over


@pytest.fixture
def zone(database_url: str, tmp_path: Path) -> Iterator[Zone]:
    seed = int(os.environ.get("XENVOL_SEED", random.randrange(1 << 16)))
    with Simulator(hosts=2) as xapi:
        arrange_storage(xapi)
        xapi.storage.san.add_target(IQN, "10.0.0.1:3260", chap=CHAP)
        xapi.storage.san.add_lun(IQN, 0, 50 * GIB, scsi_id=LUN)
        touch_hosts(xapi)
        zone = Zone(xapi, database_url, tmp_path, seed)
        try:
            yield zone
        finally:
            zone.kill_all()


@pytest.fixture
def manager(zone: Zone) -> Iterator[StorageManager]:
    database = Database(zone.database_url)
    with log_in(zone.xapi) as session:
        manager = StorageManager(session, database)
        manager.create_flavor("gold", "")
        yield manager
    database.close()


short_and_long = pytest.mark.parametrize(
    "seconds", [pytest.param(8, id="short"), pytest.param(100, id="long", marks=LONG)]
)


@on_servers
@short_and_long
@pytest.mark.timeout(600)
def test_services_that_are_killed_at_random_lose_no_volume_and_leave_nothing_behind(
    zone: Zone, manager: StorageManager, seconds: int
) -> None:
    backends = [manager.add_backend("gold", "nfs", config) for config in (NFS, NFS_2)]
    for _ in range(SERVICES):
        zone.start()
    end = time.monotonic() + seconds
    # a busy machine needs longer for as many operations
    while time.monotonic() < end or (not enough(zone, seconds) and time.monotonic() < end + 200):
        time.sleep(zone.random.uniform(0.02, 0.4))
        zone.kill(zone.random.randrange(len(zone.running)))
        zone.start()
    zone.kill_all()
    zone.let_calls_end()
    found, repaired, left = manager.audit(), manager.audit(repair=True), manager.audit()
    _tell(zone, found, repaired, left)

    events = [event for event, _ in zone.events()]
    assert enough(zone, seconds)
    assert repaired.agrees, repaired
    assert left.findings == []
    volumes = manager.list_volumes()
    assert {volume.state for volume in volumes} <= {"available"}
    named = {volume.vdi_uuid for volume in volumes}
    if strangers := [uuid for uuid in vdi_uuids(zone.xapi) if uuid not in named]:
        pytest.fail("\n".join(_what_became_of(zone.xapi, uuid) for uuid in strangers))
    assert sorted(volume.vdi_uuid or "" for volume in volumes) == vdi_uuids(zone.xapi)
    assert _lost(zone, {(volume.id, volume.vdi_uuid) for volume in volumes}) == []
    assert [event for event in events if event.outcome in ("bug", "DatabaseError")] == []
    assert _made(zone.xapi) == len(zone.xapi.db.refs("SR")) == len(backends)
    for volume in sorted(volumes, key=lambda volume: not volume.is_snapshot):
        manager.delete_volume(volume.id)
    assert vdi_uuids(zone.xapi) == []
    assert manager.audit().findings == []


def enough(zone: Zone, seconds: int) -> bool:
    return len(list(zone.events())) > 2 * seconds and len(zone.killed) > seconds / 2


def _what_became_of(xapi: Simulator, vdi_uuid: str) -> str:
    """Return the marks of a disk without a volume, and all calls about it."""
    (ref,) = [ref for ref in xapi.db.refs("VDI") if xapi.db.get("VDI", ref, "uuid") == vdi_uuid]
    lines = [f"{vdi_uuid} {xapi.db.row('VDI', ref)}"]
    lines += [str(entry) for entry in xapi.journal if f"{ref}" in str(entry) or vdi_uuid in str(entry)]
    return "\n".join(lines)


def _lost(zone: Zone, there: set[tuple[str, str | None]]) -> list[Event]:
    """Return the volumes that a service got as made, whose deletion was never begun, and that do not exist."""
    events = list(zone.events())
    deletions = [(event.volume_id, over) for event, over in events if event.operation == "delete"]
    return [
        event
        for event, _ in events
        if event.operation == "create"
        and event.outcome == "ok"
        and (event.volume_id, event.vdi_uuid) not in there
        and not any(each == event.volume_id and over >= event.began for each, over in deletions)
    ]


def _tell(zone: Zone, found: AuditReport, repaired: AuditReport, left: AuditReport) -> None:
    events = [event for event, _ in zone.events()]
    outcomes = Counter(f"{event.operation} {event.outcome}" for event in events)
    in_work = sum(event.outcome == "killed" for event in events)
    told = sum(event.operation == "create" and event.outcome == "ok" for event in events)
    kinds = dict(Counter(finding.kind for finding in found.findings))
    mended = sum(finding.repaired for finding in repaired.findings)
    lines = [
        "",
        f"seed {zone.seed}, {zone.database_url.partition(':')[0]}",
        f"{len(events)} operations, {len(zone.killed)} kills, {in_work} of them in the middle of one",
        f"{told} times told that a volume is there; {repaired.volumes} volumes at the end",
        f"findings: {kinds}; mended: {mended}; disagreements left: {len(left.findings)}",
        ", ".join(f"{key} {count}" for key, count in sorted(outcomes.items())),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


rounds = pytest.mark.parametrize(
    "rounds", [pytest.param(3, id="short"), pytest.param(16, id="long", marks=LONG)]
)


@on_servers
@rounds
@pytest.mark.timeout(600)
def test_a_backend_that_eight_services_register_at_once_is_made_once(
    zone: Zone, manager: StorageManager, rounds: int
) -> None:
    """In every second round some of them are killed halfway; the next one completes it."""
    zone.xapi.faults.delay("SR.create", 0.05, every=True)
    secret_config = {**CONFIG, "chappassword": Secret(CHAP[1])}
    secrets = zone.xapi.db.refs("secret")
    for number in range(rounds):
        before = _made(zone.xapi)
        at = time.monotonic() + 0.5
        for _ in range(SERVICES):
            zone.start(service.register, CONFIG, CHAP[1], at)
        if number % 2:
            time.sleep(max(0.0, at - time.monotonic()))
            for _ in range(SERVICES - 1):
                time.sleep(zone.random.uniform(0, 0.05))
                zone.kill(0)
        for process, _ in zone.running:
            process.join(60)
        zone.kill_all()
        with contextlib.suppress(BackendExists):
            manager.add_backend("gold", "lvmoiscsi", secret_config, format_device=LUN)
        assert [report.error for report in manager.do_setup()] == [None]
        (backend,) = manager.list_backends()
        assert backend.state == "ready"
        assert [zone.xapi.db.get("SR", sr, "uuid") for sr in zone.xapi.db.refs("SR")] == [backend.sr_uuid]
        assert _made(zone.xapi) == before + 1
        assert manager.audit().findings == []
        assert manager.create_volume("v1", "gold", GIB).backend_id == backend.id
        manager.delete_volume("v1")
        manager.remove_backend(backend.id, destroy=True)
        assert zone.xapi.db.refs("SR") == zone.xapi.db.refs("PBD") == []
        # a call of a killed service may still be on its way when the next one makes its own: the storage refuses one of
        # the two, and of each SR.create that it refuses xapi itself keeps a copy of the password (docs/backends.md)
        left = set(zone.xapi.db.refs("secret")) - set(secrets)
        assert len(left) <= _refused(zone.xapi)
    events = [event for event, _ in zone.events()]
    outcomes = Counter(event.outcome for event in events)
    told = f"seed {zone.seed}: {rounds} rounds, {len(zone.killed)} kills, {dict(outcomes)}; each SR was made once"
    sys.stdout.write(f"\n{told}\n")
    assert outcomes.pop("XapiError", 0) <= _refused(zone.xapi)  # the other side of the same
    assert set(outcomes) <= {"ok", "BackendExists", "killed"}, events


def _made(xapi: Simulator) -> int:
    """Return how often an SR was made."""
    return sum(entry.method == "SR.create" and entry.outcome == "success" for entry in xapi.journal)


def _refused(xapi: Simulator) -> int:
    return sum(entry.method == "SR.create" and entry.outcome != "success" for entry in xapi.journal)
