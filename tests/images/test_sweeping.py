"""A sweep takes what killed transfers have left, and nothing that may belong to another user."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from imagelab import MIB, Lab, lab

from xenvol.images import find_leftovers, sweep
from xenvol.pool.marks import EXPORTED, FILLED, IMAGE, IMAGE_OF
from xenvol.pool.transfer_mark import Attempt, attempt_of
from xenvol.pool.view import View
from xenvol.session import CallRecord, Session

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
WORD = f"0123456789abcdef {LONG_AGO.isoformat()} elsewhere/77"


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        made.sr("nfs")
        yield made


def marked(pool: Lab, vdi: str, key: str = IMAGE, word: str = WORD) -> str:
    pool.session.call("VDI.add_to_other_config", pool.ref(vdi), key, word)
    if key == IMAGE:
        pool.session.call("VDI.add_to_other_config", pool.ref(vdi), IMAGE_OF, vdi)
    return vdi


def test_a_disk_that_was_begun_long_ago_goes(pool: Lab) -> None:
    before = pool.xapi.snapshot()
    vdi = marked(pool, pool.vdi())
    (found,) = find_leftovers(pool.session)
    assert (found.kind, found.vdi_uuid, found.began, found.machine, found.kept) == (
        "disk",
        vdi,
        LONG_AGO,
        "elsewhere/77",
        None,
    )
    assert sweep(pool.session) == [found]
    assert before.difference(pool.xapi.snapshot()) == sweep(pool.session) == []


def test_a_disk_that_was_begun_just_now_stays(pool: Lab) -> None:
    """Its import is under way."""
    (word,) = Attempt.begin(View.of(pool.session)).mark.values()
    vdi = marked(pool, pool.vdi(), word=word)
    assert find_leftovers(pool.session) == sweep(pool.session) == []
    assert pool.ref(vdi)


def test_an_age_of_zero_takes_what_was_begun_in_this_very_second(pool: Lab) -> None:
    """The pool's clock has whole seconds."""
    pool.xapi.xapi.clock = lambda: 1_800_000_000.5
    (word,) = Attempt.begin(View.of(pool.session)).mark.values()
    vdi = marked(pool, pool.vdi(), word=word)
    (found,) = find_leftovers(pool.session, older_than=datetime.timedelta(0))
    assert found.vdi_uuid == vdi


@pytest.mark.parametrize(("hours", "is_found"), [(-1, False), (1, True)])
def test_the_age_of_a_disk_is_told_by_the_pools_clock(pool: Lab, hours: int, is_found: bool) -> None:
    """It was begun half an hour ago by this machine's clock, from which the pool's differs by an hour."""
    began = datetime.datetime.now(datetime.UTC).replace(microsecond=0) - datetime.timedelta(minutes=30)
    marked(pool, pool.vdi(), word=WORD.replace(LONG_AGO.isoformat(), began.isoformat()))
    usual = pool.xapi.xapi.clock
    pool.xapi.xapi.clock = lambda: usual() + 3600 * hours
    assert bool(find_leftovers(pool.session, older_than=datetime.timedelta(minutes=5))) is is_found


@pytest.mark.parametrize("plugged", [True, False])
def test_a_disk_that_a_vm_has_stays_and_the_vm_is_named(pool: Lab, plugged: bool) -> None:
    vdi = marked(pool, pool.vdi())
    vm = pool.xapi.add_vm("web", power_state="Running" if plugged else "Halted")
    pool.xapi.add_vbd(vm, pool.ref(vdi), plugged=plugged)
    before = pool.xapi.snapshot()
    (kept,) = sweep(pool.session)
    assert kept.kept == "VM web has it"
    assert before.difference(pool.xapi.snapshot()) == []


def test_a_disk_that_has_become_a_volume_stays(pool: Lab) -> None:
    """It was adopted by the Storage Manager."""
    vdi = marked(pool, pool.vdi())
    pool.session.call("VDI.add_to_other_config", pool.ref(vdi), "xenvol:managed", "v1")
    (kept,) = sweep(pool.session)
    assert "volume v1" in str(kept.kept)
    assert pool.ref(vdi)


def test_a_copy_that_has_inherited_the_mark_stays_and_loses_it(pool: Lab) -> None:
    """A clone, a snapshot or a copy of a disk that was being filled belongs to the user who made it."""
    vdi = marked(pool, pool.vdi(size=4 * MIB))
    copies = [
        pool.session.call("VDI.clone", pool.ref(vdi), {}),
        pool.session.call("VDI.snapshot", pool.ref(vdi), {}),
        pool.session.call("VDI.copy", pool.ref(vdi), pool.srs["nfs"]),
    ]
    kinds = {each.vdi_uuid: each.kind for each in sweep(pool.session)}
    assert kinds.pop(vdi) == "disk"
    assert set(kinds.values()) == {"mark"}
    for copy in copies:
        assert pool.session.call("VDI.get_other_config", copy) == {}
    assert sweep(pool.session) == []


def test_a_disk_that_somebody_takes_meanwhile_stays(pool: Lab) -> None:
    """Between the look at all disks and the erasing of one."""
    vdi = marked(pool, pool.vdi())

    def take(call: CallRecord) -> None:
        if call.call == "VDI.get_all_records":
            pool.xapi.add_vbd(pool.xapi.add_vm("late", power_state="Halted"), pool.ref(vdi), plugged=False)

    (kept,) = sweep(Session(pool.session, on_call=take))
    assert "VM late has it" in str(kept.kept)
    assert pool.ref(vdi)


def test_a_word_that_nobody_can_read_is_nobodys(pool: Lab) -> None:
    for word in ("", "yes", "a b c", "a 2020-01-01T00:00:00 c", "a 2020-01-01T00:00:00+00:00"):
        marked(pool, pool.vdi(), word=word)
    assert find_leftovers(pool.session) == sweep(pool.session) == []


def test_a_disk_that_does_not_say_which_one_it_is_stays_and_is_told_of(pool: Lab) -> None:
    """It was begun and nothing else; or it is a copy of one that was."""
    vdi = pool.vdi()
    pool.session.call("VDI.add_to_other_config", pool.ref(vdi), IMAGE, WORD)
    (kept,) = sweep(pool.session)
    assert (kept.kind, "another user made" in str(kept.kept)) == ("disk", True)
    assert pool.ref(vdi)


def test_a_disk_that_was_half_filled_stays_and_is_told_of(pool: Lab) -> None:
    vdi = marked(pool, pool.vdi(), key=FILLED, word=WORD.replace("elsewhere", "-elsewhere"))
    (kept,) = sweep(pool.session)
    assert (kept.kind, kept.vdi_uuid, "fill it again" in str(kept.kept)) == ("half", vdi, True)
    assert FILLED in pool.session.call("VDI.get_other_config", pool.ref(vdi))


def test_a_slot_of_somebody_else_in_a_control_domain_stays(pool: Lab) -> None:
    """Only that of the attempt goes: a backup may be reading the same disk."""
    vdi = pool.vdi()
    db = pool.xapi.db
    (domain, *_) = [ref for ref in db.refs("VM") if db.get("VM", ref, "is_control_domain")]
    ours = pool.xapi.add_vbd(domain, pool.ref(vdi), mode="RO")
    theirs = pool.xapi.add_vbd(domain, pool.ref(vdi), mode="RO")
    pool.session.call("VBD.add_to_other_config", ours, IMAGE, WORD)
    (found,) = sweep(pool.session)
    assert (found.kind, found.kept) == ("slot", None)
    assert db.refs("VBD") == [theirs]
    assert db.get("VBD", theirs, "currently_attached")


def test_the_mark_of_an_export_that_died_before_its_snapshot_goes(pool: Lab) -> None:
    vdi = marked(pool, pool.vdi(), key=EXPORTED + "0123456789abcdef")
    (found,) = sweep(pool.session)
    assert (found.kind, found.kept) == ("mark", None)
    assert pool.session.call("VDI.get_other_config", pool.ref(vdi)) == {}


def test_a_snapshot_that_only_looks_like_an_exports_stays_and_is_told_of(pool: Lab) -> None:
    vdi = marked(pool, pool.vdi(), key=EXPORTED + "0123456789abcdef")
    snapshot = pool.session.call("VDI.snapshot", pool.ref(vdi), {})
    swept = {each.kind: each for each in sweep(pool.session)}
    assert swept["snapshot"].vdi_uuid == pool.session.call("VDI.get_uuid", snapshot)
    assert "another user made" in str(swept["snapshot"].kept)


def test_what_cannot_be_erased_is_told_with_the_reason_and_the_rest_goes(pool: Lab) -> None:
    first, second = marked(pool, pool.vdi()), marked(pool, pool.vdi())
    pool.xapi.faults.refuse("VDI.destroy", "SR_BACKEND_FAILURE_80", "", "no", "")
    swept = sweep(pool.session)
    assert sorted(each.kept is None for each in swept) == [False, True]
    (kept,) = [each for each in swept if each.kept is not None]
    assert "SR_BACKEND_FAILURE_80" in str(kept.kept)
    assert kept.vdi_uuid in (first, second)


def test_an_attempt_reads_what_it_has_written(pool: Lab) -> None:
    attempt = Attempt.begin(View.of(pool.session))
    assert attempt_of({"other_config": attempt.mark}) == attempt
    assert attempt.has_marked({"other_config": {"a": "b", **attempt.mark}})
