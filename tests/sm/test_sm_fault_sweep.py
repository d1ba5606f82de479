"""Every call and every statement of the Storage Manager fails once: nothing is lost, and nothing is left.

One run reads the journal. Then each call of xapi is refused, loses its answer, loses its request, or is the last that
gets through, in a pool of its own; and so is each statement of the database. Afterwards the same call again completes,
or an audit repairs; database and pool agree; and after all is deleted, pool and storage are as they were at the start.
"""

from __future__ import annotations

import contextlib
import copy
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.sm.conftest import DEVICE, GIB, NFS, NFS_2, arrange_storage, log_in, marks, opened, vdi_uuids
from tests.sm.sqlite_file import new_file, replace
from xenvol.errors import XapiUnreachable, XenVolError
from xenvol.secret import Secret
from xenvol.simulator import Simulator
from xenvol.sm import Database, StorageManager
from xenvol.sm.errors import DatabaseError, UnknownBackend, UnknownVolume
from xenvol.testing import sweep
from xenvol.testing.residue import changes, touch_hosts

CHAP = ("initiator", "canary-5ecret-p4ssword")
IQN = "iqn.2010-10.org.example:store"
LUN = "36001405000000000000000000000000a"


pytestmark = pytest.mark.timeout(
    900
)  # each test sweeps a whole operation, in a hundred pools; machines are shared


@dataclass(frozen=True)
class Operation:
    name: str
    prepare: Callable[[StorageManager], object]
    run: Callable[[StorageManager], object]
    goes_forward: bool = False
    """Once begun, nothing is undone: after a refusal the same call continues."""
    hosts: int = 1

    def __str__(self) -> str:
        return self.name


def _flavor(manager: StorageManager) -> None:
    manager.create_flavor("gold", "backups are possible")


def _nfs(manager: StorageManager) -> None:
    _flavor(manager)
    manager.add_backend("gold", "nfs", NFS)


def _volume(manager: StorageManager) -> None:
    _nfs(manager)
    manager.create_volume("v1", "gold", GIB)


def _snapshot(manager: StorageManager) -> None:
    _volume(manager)
    manager.create_snapshot("s1", "v1")


def _raw(manager: StorageManager) -> None:
    _flavor(manager)
    manager.add_backend("gold", "lvm", {"device": DEVICE, "type": "raw"}, format_device=DEVICE)
    manager.create_volume("v1", "gold", 8 << 20)


def _foreign_disk(manager: StorageManager) -> None:
    _volume(manager)
    manager.unmanage_volume("v1")


def _forgotten(manager: StorageManager) -> None:
    """One SR is forgotten, and another unplugged."""
    _volume(manager)
    manager.add_backend("gold", "nfs", NFS_2)
    call = manager._context.session.call
    forgotten, unplugged = call("SR.get_all_records").items()
    for pbd in (*forgotten[1]["PBDs"], *unplugged[1]["PBDs"]):
        call("PBD.unplug", pbd)
    call("SR.forget", forgotten[0])


def _manage(manager: StorageManager) -> object:
    (uuid,) = (
        vdi["uuid"] for vdi in manager._context.session.call("VDI.get_all_records").values() if vdi["managed"]
    )
    return manager.manage_volume("v1", uuid)


def _unmanage(manager: StorageManager) -> None:
    try:
        manager.unmanage_volume("v1")
    except UnknownVolume:  # the answer was lost
        assert manager.list_volumes() == []


def _remove(manager: StorageManager, *, destroy: bool) -> None:
    try:
        manager.remove_backend(1, destroy=destroy)
    except UnknownBackend:
        assert manager.list_backends() == []


def _iscsi(manager: StorageManager) -> object:
    config: dict[str, str | Secret] = {
        "target": "10.0.0.1",
        "targetIQN": IQN,
        "SCSIid": LUN,
        "chapuser": CHAP[0],
        "chappassword": Secret(CHAP[1]),
    }
    return _added(manager, "lvmoiscsi", config, format_device=LUN)


def _added(manager: StorageManager, sr_type: str, config: dict[str, Any], **more: Any) -> object:
    """Registered by this call, or by an earlier one whose answer was lost."""
    (known,) = manager.list_backends() or [None]
    if known is not None and known.state == "ready":
        manager.do_setup()
        return known
    return manager.add_backend("gold", sr_type, config, **more)


def _set_up(manager: StorageManager) -> None:
    errors = [report.error for report in manager.do_setup() if report.error is not None]
    if errors:
        raise errors[0]


OPERATIONS = [
    Operation("add-nfs", _flavor, lambda m: _added(m, "nfs", NFS), goes_forward=True, hosts=2),
    Operation(
        "add-lvm",
        _flavor,
        lambda m: _added(m, "lvm", {"device": DEVICE}, format_device=DEVICE),
        goes_forward=True,
    ),
    Operation("add-lvmoiscsi-chap", _flavor, _iscsi, goes_forward=True),
    Operation("set-up", _forgotten, _set_up, goes_forward=True, hosts=2),
    Operation("create", _nfs, lambda m: m.create_volume("v1", "gold", GIB)),
    Operation("extend", _volume, lambda m: m.extend_volume("v1", 2 * GIB), goes_forward=True),
    Operation("snapshot", _volume, lambda m: m.create_snapshot("s1", "v1")),
    Operation("clone", _volume, lambda m: m.clone_volume("c1", "v1")),
    Operation("clone-larger", _snapshot, lambda m: m.clone_volume("c1", "s1", size=2 * GIB)),
    Operation("clone-raw", _raw, lambda m: m.clone_volume("c1", "v1")),
    Operation("delete", _volume, lambda m: m.delete_volume("v1"), goes_forward=True),
    Operation("delete-snapshot", _snapshot, lambda m: m.delete_volume("s1"), goes_forward=True),
    Operation("manage", _foreign_disk, _manage),
    Operation("unmanage", _volume, _unmanage, goes_forward=True),
    Operation("remove", _nfs, lambda m: _remove(m, destroy=False), goes_forward=True, hosts=2),
    Operation("destroy", _nfs, lambda m: _remove(m, destroy=True), goes_forward=True),
]
_NOT_BY_AN_AUDIT = ("destroy", "add-lvm", "add-lvmoiscsi-chap")
"""An audit does not restore what was erased, formats nothing, and does not know a password that was not set yet."""
_QUICK = ("create", "clone-larger")
every_operation = pytest.mark.parametrize(
    "operation",
    [
        pytest.param(each, id=each.name, marks=[] if each.name in _QUICK else [pytest.mark.slow])
        for each in OPERATIONS
    ],
)

_LOOKED_AT = re.compile(
    r": (virtual_allocation|physical_size|physical_utilisation): |other_config: \[dirty\]"
    r"|filelog\.txt: |: (allowed_operations|current_operations): "
    r"|^VDI \"base copy\" |: sm_config: \[vhd-parent\] |/[0-9a-f-]{36}\.vhd: "
)
"""What a driver writes on its own storage, and what xapi computes anew at each reading.

A copied disk has a base copy from then on, also after the copy is erased. The driver's collector, which does not run
here, joins the two.
"""


class Trial:
    """A pool and a database, before and after an operation that fails somewhere."""

    def __init__(self, xapi: Simulator, operation: Operation, path: Path) -> None:
        self.xapi, self.operation = xapi, operation
        xapi.reset()
        arrange_storage(xapi)
        xapi.storage.san.add_target(IQN, "10.0.0.1:3260", chap=CHAP)
        xapi.storage.san.add_lun(IQN, 0, 50 * GIB, scsi_id=LUN)
        touch_hosts(xapi)
        self.pristine = xapi.snapshot()
        self.url = new_file(path)
        self.begin()
        operation.prepare(self.manager)
        self.before = xapi.snapshot()
        self.rows_before = self.rows()
        self.database.close()  # which writes its log into the file
        self.path, self.saved = path, path.read_bytes()
        self.first_session = self.session

    def again(self) -> Trial:
        """Return the same trial in a restored pool: the service still runs, and its rows are as they were."""
        trial = copy.copy(self)
        self.database.close()  # it is the same object, and its connections would go on reading the file of before
        replace(self.path, self.saved)
        trial.open()
        return trial

    def begin(self) -> None:
        """Do what a service does at its start."""
        self.session = log_in(self.xapi)
        self.open()

    def open(self) -> None:
        self.database = opened(self.url)
        self.manager = StorageManager(self.session, self.database)
        self.manager.list_flavors()  # the tables are checked once

    def begin_anew(self) -> None:
        self.end()
        self.begin()

    def end(self) -> None:
        """The first session stays: the next call is struck with it."""
        self.database.close()
        if self.session is not self.first_session:
            self.session.close()

    def run(self) -> object:
        return self.operation.run(self.manager)

    def rows(self) -> list[object]:
        volumes = [(v.id, v.state, v.vdi_uuid, v.size) for v in self.manager.list_volumes()]
        return [volumes, [(b.id, b.state, b.sr_uuid) for b in self.manager.list_backends()]]

    def difference(self) -> list[str]:
        return [line for line in changes(self.before, self.xapi.snapshot()) if not _LOOKED_AT.search(line)]

    def finish_by_the_same_call(self) -> None:
        self.run()
        self.check_agreement()
        self.delete_all()

    def finish_by_an_audit(self) -> None:
        report = self.manager.audit(repair=True)
        if self.operation.name in _NOT_BY_AN_AUDIT and not report.agrees:
            self.run()
            report = self.manager.audit()
        assert report.agrees, report
        self.check_agreement()
        self.delete_all()

    def check_agreement(self) -> None:
        report = self.manager.audit()
        assert report.findings == []
        named = sorted(volume.vdi_uuid or "" for volume in self.manager.list_volumes())
        assert set(named) <= set(vdi_uuids(self.xapi))
        assert all(volume.state == "available" for volume in self.manager.list_volumes())
        unnamed = set(vdi_uuids(self.xapi)) - set(named)
        is_let_go_of = self.operation.name in ("manage", "unmanage")
        assert len(unnamed) <= is_let_go_of, unnamed
        if not self.manager.list_volumes():
            assert marks(self.xapi) == []

    def delete_all(self) -> None:
        """Delete all as an administrator would. Then only what SR.forget leaves on the storage is left."""
        for volume in sorted(self.manager.list_volumes(), key=lambda volume: not volume.is_snapshot):
            self.manager.delete_volume(volume.id)
        for ref in list(self.xapi.db.refs("VDI")):
            if self.xapi.db.get("VDI", ref, "managed"):
                assert self.operation.name in ("manage", "unmanage")
                self.session.call("VDI.destroy", ref)
        for backend in self.manager.list_backends():
            self.manager.remove_backend(backend.id)
        assert self.manager.list_backends() == []
        left = changes(self.pristine, self.xapi.snapshot())
        assert [line for line in left if not _ON_STORAGE.search(line)] == []


_ON_STORAGE = re.compile(
    r"^storage\.servers\.nfs .*/[0-9a-f-]{36}(: absent → \{\}|/filelog\.txt: .*|/sm-hardlink\.conf: .*"
    r"|/[0-9a-f-]{36}\.vhd: .*)$"  # the base copies of snapshots: no driver's collector runs here
    r"|^storage\.servers\.nfs .*: absent → \{\}$"
    r"|^storage\.(hosts\.\w+\.devices|luns)\..*VG_XenStorage-.*$"
)
"""What stays on the storage of an SR: its directory, or its volume group."""


Strikes = Callable[[Database], contextlib.AbstractContextManager[list[int]]]
"""Strikes at a database during the block, and lists the statements, or commits, that it struck."""


def fails(n: int) -> Strikes:
    """The n-th statement is not done, and the connection is lost."""
    return _struck("do_execute", n, n)


def is_down(n: int) -> Strikes:
    """From the n-th statement on the database is away."""
    return _struck("do_execute", n, 1 << 30)


def commit_fails(n: int) -> Strikes:
    """The n-th commit is not done."""
    return _struck("do_commit", n, n)


def commit_unanswered(n: int) -> Strikes:
    """The n-th commit is done, and the answer is lost."""
    return _struck("do_commit", n, n, is_done=True)


def _struck(method: str, first: int, last: int, *, is_done: bool = False) -> Strikes:
    @contextlib.contextmanager
    def striking(database: Database) -> Iterator[list[int]]:
        dialect: Any = database._engine.dialect
        really, count, hits = getattr(dialect, method), 0, list[int]()

        def struck(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if not first <= count <= last:
                return really(*args, **kwargs)
            hits.append(count)
            if is_done:
                really(*args, **kwargs)
            raise sqlite3.OperationalError("server closed the connection unexpectedly")

        setattr(dialect, method, struck)
        try:
            yield hits
        finally:
            delattr(dialect, method)

    return striking


@pytest.fixture(scope="module")
def pools() -> Iterator[Callable[[int], Simulator]]:
    started: dict[int, Simulator] = {}

    def pool(hosts: int) -> Simulator:
        if hosts not in started:
            started[hosts] = Simulator(hosts=hosts)
            started[hosts].start()
        return started[hosts]

    yield pool
    for xapi in started.values():
        xapi.close()


@pytest.fixture
def begin(pools: Callable[[int], Simulator], tmp_path: Path) -> Iterator[Callable[[Operation], Trial]]:
    with contextlib.ExitStack() as stack:

        def trial(operation: Operation) -> Trial:
            trial = Trial(pools(operation.hosts), operation, tmp_path / "sm.sqlite")
            stack.callback(trial.session.close)
            return trial

        yield trial


Begin = Callable[[Operation], Trial]
Finish = Callable[[Trial], None]
SAME_CALL, AUDIT = Trial.finish_by_the_same_call, Trial.finish_by_an_audit
either_way = pytest.mark.parametrize(
    "finish",
    [pytest.param(SAME_CALL, id="same-call", marks=pytest.mark.slow), pytest.param(AUDIT, id="audit")],
)


def each_call(
    pools: Callable[[int], Simulator], begin: Begin, operation: Operation, strike: sweep.Strike
) -> Iterator[sweep.Case[Trial]]:
    struck = 0
    xapi = pools(operation.hosts)
    for case in sweep.each_call(xapi, lambda: begin(operation), Trial.run, strike, again=Trial.again):
        struck += 1
        try:
            yield case
        except BaseException as error:
            error.add_note(str(case))
            raise
        finally:
            case.trial.end()
    assert struck >= 2


def judged(case: sweep.Case[Trial], finish: Finish) -> None:
    try:
        finish(case.trial)
    except BaseException as error:
        error.add_note(str(case))
        raise


@every_operation
class TestEveryCall:
    def test_that_is_refused_leaves_all_as_it_was_or_the_same_call_goes_on(
        self, pools: Callable[[int], Simulator], begin: Begin, operation: Operation
    ) -> None:
        for case in each_call(pools, begin, operation, sweep.refuse):
            assert case.error is None or isinstance(case.error, XenVolError), case
            assert not getattr(case.error, "__notes__", []) or operation.goes_forward, case
            is_named = any(
                volume.state == "creating" and volume.vdi_uuid for volume in case.trial.manager.list_volumes()
            )
            if case.error is not None and not operation.goes_forward and not is_named:
                assert case.trial.difference() == [], case
                assert case.trial.rows() == case.trial.rows_before, case
            judged(case, Trial.finish_by_the_same_call)

    @pytest.mark.slow
    @either_way
    @pytest.mark.parametrize("strike", [sweep.lose_answer, sweep.lose_request])
    def test_that_is_lost_is_completed_by_the_same_call_again_or_mended_by_an_audit(
        self,
        pools: Callable[[int], Simulator],
        begin: Begin,
        operation: Operation,
        strike: sweep.Strike,
        finish: Finish,
    ) -> None:
        for case in each_call(pools, begin, operation, strike):
            assert case.error is None or isinstance(case.error, XapiUnreachable), case
            judged(case, finish)

    @either_way
    def test_at_which_the_service_dies_is_completed_by_the_next_service_or_mended_by_an_audit(
        self, pools: Callable[[int], Simulator], begin: Begin, operation: Operation, finish: Finish
    ) -> None:
        for case in each_call(pools, begin, operation, sweep.die):
            assert case.error is None or isinstance(case.error, XenVolError), case
            case.trial.begin_anew()
            judged(case, finish)


@every_operation
@pytest.mark.parametrize(
    ("strike", "finish"),
    [
        pytest.param(fails, SAME_CALL, id="fails"),
        pytest.param(is_down, AUDIT, id="is-down", marks=pytest.mark.slow),
        pytest.param(commit_fails, AUDIT, id="commit-fails", marks=pytest.mark.slow),
        pytest.param(commit_unanswered, SAME_CALL, id="commit-unanswered", marks=pytest.mark.slow),
        pytest.param(commit_unanswered, AUDIT, id="commit-unanswered-audit", marks=pytest.mark.slow),
    ],
)
def test_every_statement_of_the_database_at_which_it_is_lost_is_gone_on_with(
    begin: Begin,
    operation: Operation,
    strike: Callable[[int], Strikes],
    finish: Finish,
) -> None:
    """The service dies with it, and the next one finds what was committed and what was not."""
    n = 0
    first = begin(operation)
    kept = first.xapi.checkpoint()
    while True:
        n += 1
        first.xapi.restore(kept)
        trial = first.again()
        error: Exception | None = None
        with strike(n)(trial.database) as hits:
            try:
                trial.run()
            except XenVolError as raised:
                error = raised
        assert error is None or isinstance(error, DatabaseError), error
        trial.begin_anew()
        try:
            finish(trial)
        except BaseException as failed:
            failed.add_note(f"{strike.__name__} at {n}: {error!r}")
            raise
        finally:
            trial.end()
        if not hits:
            break
    assert n > 1
