"""Every call of an import, an export and a fill goes wrong in turn, the transfer itself too, and nothing of it stays.

What is killed leaves what a sweep finds and takes away.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from imagelab import MIB, Lab, pattern

from xenvol.errors import XapiUnreachable, XenVolError
from xenvol.images import export_image, fill_vdi, find_leftovers, import_image
from xenvol.images import sweep as sweep_images
from xenvol.simulator import Simulator
from xenvol.testing import sweep

DATA = pattern(5 * MIB, seed=11)
NOW = datetime.timedelta(seconds=-5)
"""An age that everything has."""


@dataclass
class Trial:
    pool: Lab
    place: Path
    vdi: str | None = None
    """The disk that is filled, or exported."""
    before: Any = None

    def difference(self) -> list[str]:
        """What is not as it was, but for the length of the disk's file, which was written to.

        A snapshot that is gone leaves a base under its source, which the storage coalesces in its own time.
        """
        ignored = ["VDI.sm_config.vhd-parent", "VDI.physical_utilisation", "SR.physical_utilisation"]
        ignored.append("VDI.other_config.xenvol:filled")  # a disk that was half written over says so
        lines = self.before.difference(self.pool.xapi.snapshot(), ignore=ignored)
        its_own = ("base copy", ".vhd: ", "/filelog.txt: ")  # the driver's log, the last one
        return [line for line in lines if not any(words in line for words in its_own)]

    @property
    def image(self) -> Path:
        return self.place / "disk.raw"

    @property
    def target(self) -> Path:
        return self.place / "exported"


@dataclass(frozen=True)
class Operation:
    name: str
    road: str
    run: Callable[[Trial], object]
    sr: str = "nfs"
    is_in_use: bool = False

    def __str__(self) -> str:
        return f"{self.name}-{self.road}"


def import_it(road: str) -> Callable[[Trial], object]:
    def run(trial: Trial) -> object:
        pool = trial.pool
        return import_image(pool.session, trial.image, pool.sr("nfs"), verify=True, here=pool.on(road))

    return run


def fill_it(road: str) -> Callable[[Trial], object]:
    def run(trial: Trial) -> object:
        assert trial.vdi is not None
        return fill_vdi(trial.pool.session, trial.image, trial.vdi, here=trial.pool.on(road))

    return run


def export_it(road: str) -> Callable[[Trial], object]:
    def run(trial: Trial) -> object:
        assert trial.vdi is not None
        trial.target.unlink(missing_ok=True)
        return export_image(trial.pool.session, trial.vdi, trial.target, here=trial.pool.on(road))

    return run


OPERATIONS = [
    Operation("import", "http", import_it("http")),
    Operation("import", "block", import_it("block")),
    Operation("fill", "http", fill_it("http")),
    Operation("fill", "block", fill_it("block")),
    Operation("export", "http", export_it("http")),
    Operation("export", "block", export_it("block")),
    Operation("export of a disk in use", "http", export_it("http"), is_in_use=True),
    Operation("export of a disk in use", "block", export_it("block"), is_in_use=True),
]


@pytest.fixture(scope="module")
def xapi() -> Iterator[Simulator]:
    with Simulator(hosts=2) as made:
        yield made


OFTEN = ("import-http", "export of a disk in use-block")
"""What `make test` sweeps; `make test-slow` sweeps all."""


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(each, marks=() if str(each) in OFTEN else pytest.mark.slow, id=str(each))
        for each in OPERATIONS
    ],
)
@pytest.mark.timeout(600)  # each sweeps a whole transfer; machines are shared
class TestSweep:
    @pytest.fixture
    def begin(self, xapi: Simulator, tmp_path: Path, operation: Operation) -> Iterator[Callable[[], Trial]]:
        (tmp_path / "disk.raw").write_bytes(DATA)
        open_labs: list[Lab] = []

        def make() -> Trial:
            while open_labs:
                open_labs.pop().session.close()
            xapi.reset()
            pool = Lab.of(xapi, tmp_path)
            open_labs.append(pool)
            pool.sr("nfs")
            trial = Trial(pool, tmp_path)
            if operation.name != "import":
                trial.vdi = pool.vdi("nfs", 8 * MIB)
                pool.file(trial.vdi).write_bytes(DATA[::-1])
                if operation.is_in_use:
                    xapi.add_vbd(xapi.add_vm("web"), pool.ref(trial.vdi))
            pool.session.call("SR.scan", pool.srs["nfs"])  # whose sizes then are as they stay
            trial.before = xapi.snapshot()
            return trial

        yield make
        while open_labs:
            open_labs.pop().session.close()

    def check(self, case: sweep.Case[Trial], operation: Operation) -> None:
        """It is done, all of it, or it never was."""
        trial, pool = case.trial, case.trial.pool
        if case.call == "VDI.snapshot" and case.strike is not sweep.refuse:
            self.check_told_of(case)
            return
        assert pool.residue() == [], case
        if case.error is not None:
            assert isinstance(case.error, XenVolError), case
        notes = getattr(case.error, "__notes__", [])
        if operation.name == "import":
            made = pool.vdis("nfs")
            assert len(made) == (case.error is None), case
            if case.error is None:
                uuid = pool.session.call("VDI.get_uuid", made[0])
                assert pool.content(uuid) == DATA.ljust(6 * MIB, b"\0"), case
                return
            assert notes == [], case
        elif operation.name == "fill":
            assert case.error is not None or pool.content(str(trial.vdi)) == DATA.ljust(8 * MIB, b"\0"), case
            assert all("may hold a part" in note for note in notes), case
        else:
            assert trial.target.exists() == (case.error is None), case
            assert notes == [], case
            if case.error is None:
                assert trial.target.read_bytes() == DATA[::-1].ljust(8 * MIB, b"\0"), case
        assert trial.difference() == [], case

    def check_told_of(self, case: sweep.Case[Trial]) -> None:
        """A snapshot that may have been made stays: another process may own it. The error and a sweep name it."""
        assert isinstance(case.error, XapiUnreachable), case
        assert "may have made a snapshot" in case.error.__notes__[0], case
        pool = case.trial.pool
        left = sweep_images(pool.session, older_than=NOW)
        assert len(left) == (case.strike is sweep.lose_answer), case
        for each in left:
            assert (each.kind, each.kept is None) == ("snapshot", False), case
            pool.session.call("VDI.destroy", pool.ref(each.vdi_uuid))
        assert not case.trial.target.exists()
        assert case.trial.difference() == [], case

    @pytest.mark.parametrize(
        "strike",
        [
            sweep.refuse,
            pytest.param(sweep.lose_answer, marks=pytest.mark.slow),
            pytest.param(sweep.lose_request, marks=pytest.mark.slow),
        ],
    )
    def test_a_call_that_goes_wrong_leaves_nothing(
        self, xapi: Simulator, begin: Callable[[], Trial], operation: Operation, strike: sweep.Strike
    ) -> None:
        struck = 0
        for case in sweep.each_call(xapi, begin, operation.run, strike):
            self.check(case, operation)
            struck += 1
        assert struck >= 8

    def test_what_is_killed_leaves_what_is_swept(
        self, xapi: Simulator, begin: Callable[[], Trial], operation: Operation
    ) -> None:
        for case in sweep.each_call(xapi, begin, operation.run, sweep.die):
            trial, pool = case.trial, case.trial.pool
            found = find_leftovers(pool.session, older_than=NOW)
            swept = sweep_images(pool.session, older_than=NOW)
            assert found == swept, case
            kept = [each for each in swept if each.kept is not None]
            assert find_leftovers(pool.session, older_than=NOW) == kept, case
            if operation.name == "import" and swept == []:
                for ref in pool.vdis("nfs"):  # it was killed when all was done, before it returned
                    assert pool.content(pool.session.call("VDI.get_uuid", ref)) == DATA.ljust(6 * MIB, b"\0")
                    pool.session.call("VDI.destroy", ref)
            for each in kept:
                if each.kind == "half":  # it was there before
                    continue
                # between the call that makes it and the one by which it says which disk it is
                assert case.call in ("VDI.create", "VDI.snapshot", "VDI.get_record"), case
                pool.session.call("VDI.destroy", pool.ref(each.vdi_uuid))
            assert trial.difference() == [], case
