"""The explorer runs two clients in every order of their calls, and finds an error in any of them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from xenvol.errors import XapiError, XenVolError
from xenvol.session import Session
from xenvol.simulator import Simulator
from xenvol.testing import explorer
from xenvol.testing.explorer import Client, Explorer, Report, Schedule, explore
from xenvol.testing.likeness import Changes, differences

SR = "5a000000-0000-4000-8000-000000000001"


class Retry(XenVolError):
    """Marked as worth repeating."""

    is_transient = True


@pytest.fixture
def begin(xapi: Simulator) -> Callable[[], str]:
    """Return a function that builds a pool with an SR of that uuid, and returns its reference."""

    def begin() -> str:
        xapi.reset()
        return xapi.add_sr("", sr_uuid=SR)

    return begin


def ref(session: Session) -> str:
    return str(session.call("SR.get_by_uuid", SR))


def careless(letter: str) -> Client:
    """Return a client that reads a value, and writes it with one more letter."""

    def run(session: Session) -> None:
        name = session.call("SR.get_name_label", ref(session))
        session.call("SR.set_name_label", ref(session), name + letter)

    return Client(letter, run)


def careful(letter: str, error: type[Exception] = Retry, tries: int = 1) -> Client:
    """Return a client that first takes the lock, a key that xapi adds only once, and gives up if it exists."""

    def run(session: Session) -> None:
        for left in reversed(range(tries)):
            try:
                session.call("SR.add_to_other_config", ref(session), "lock", letter)
                break
            except XapiError as refused:
                if not left:
                    raise error("locked") from refused
        careless(letter).run(session)
        session.call("SR.remove_from_other_config", ref(session), "lock")

    return Client(letter, run)


def explored(xapi: Simulator, begin: Callable[[], object], a: Client, b: Client, **more: int) -> Report:
    return explore(xapi, begin, a, b, **more)


class TestAnExploration:
    def test_finds_a_lost_update_in_the_one_order_that_loses_it(
        self, xapi: Simulator, begin: Callable[[], str]
    ) -> None:
        report = explored(xapi, begin, careless("a"), careless("b"), preemptions=1)
        assert report.violations
        first = report.violations[0]
        assert first.what.startswith("both succeeded, and the pool is as after neither order")
        assert "name_label=ab" in first.what
        story = str(first)
        assert story.index("a: SR.get_name_label") < story.index("b: SR.set_name_label")
        assert story.index("b: SR.set_name_label") < story.index("a: SR.set_name_label")

    def test_without_preemptions_sees_nothing_of_it(self, xapi: Simulator, begin: Callable[[], str]) -> None:
        report = explored(xapi, begin, careless("a"), careless("b"), preemptions=0)
        assert (report.schedules, report.violations) == (2, [])

    def test_is_content_with_an_error_that_is_worth_repeating(
        self, xapi: Simulator, begin: Callable[[], str]
    ) -> None:
        report = explored(xapi, begin, careful("a"), careful("b"), preemptions=2)
        assert report.violations == []
        assert report.gave_up > 10

    def test_demands_that_the_error_is_marked(self, xapi: Simulator, begin: Callable[[], str]) -> None:
        report = explored(xapi, begin, careful("a", XenVolError), careful("b", XenVolError))
        assert "not marked as worth repeating: XenVolError: locked" in report.violations[0].what

    def test_demands_that_the_error_is_one_of_xenvol_s(
        self, xapi: Simulator, begin: Callable[[], str]
    ) -> None:
        report = explored(xapi, begin, careful("a", OSError), careful("b", OSError))
        assert "raised an error that is not xenvol's: OSError: locked" in report.violations[0].what

    def test_demands_that_who_gives_up_leaves_nothing(
        self, xapi: Simulator, begin: Callable[[], str]
    ) -> None:
        def untidy(session: Session) -> None:
            if "lock" in session.call("SR.get_other_config", ref(session)):
                session.call("SR.introduce", "", "litter", "", "dummy", "", True, {})
                raise Retry("locked")
            careful("a").run(session)

        report = explored(xapi, begin, Client("a", untidy), careful("b"))
        assert any("gave up, and left the pool changed" in v.what for v in report.violations)
        assert any("litter" in v.what for v in report.violations)

    def test_demands_that_the_same_call_again_succeeds(
        self, xapi: Simulator, begin: Callable[[], str]
    ) -> None:
        def gone_bad(session: Session) -> None:
            name = session.call("SR.get_name_label", ref(session))
            if session.call("SR.get_name_label", ref(session)) != name or gave_up:
                gave_up.append(True)
                raise Retry("another client changed the name")
            session.call("SR.set_name_description", ref(session), "done")

        gave_up: list[bool] = []
        report = explored(xapi, begin, Client("a", gone_bad), careless("b"), preemptions=2)
        assert "the same call again did not complete after a client gave up" in report.violations[0].what

    def test_runs_each_schedule_once_and_the_sample_is_of_others(
        self, xapi: Simulator, begin: Callable[[], str]
    ) -> None:
        """Each client has four calls, so there are 2 orders without and 6 with one preemption."""
        counts = [
            explored(xapi, begin, careless("a"), careless("b"), preemptions=n).schedules for n in (0, 1)
        ]
        assert counts == [2, 8]
        more = explored(xapi, begin, careless("a"), careless("b"), preemptions=1, sample=20)
        assert 8 < more.schedules <= 28

    def test_asks_the_caller_s_own_check_after_each_schedule(
        self, xapi: Simulator, begin: Callable[[], str]
    ) -> None:
        def check() -> None:
            name = xapi.db.row("SR", xapi.db.refs("SR")[0])["name_label"]
            assert name != "ba", name

        report = explore(xapi, begin, careless("a"), careless("b"), preemptions=0, check=check)
        (violation,) = report.violations
        assert violation.what.startswith("the caller's check failed: ba")
        assert violation.run.schedule == Schedule(1)

    def test_leaves_the_pool_as_it_was_built(self, xapi: Simulator, begin: Callable[[], str]) -> None:
        explored(xapi, begin, careless("a"), careless("b"))
        assert xapi.gate is None
        assert xapi.db.row("SR", xapi.db.refs("SR")[0])["name_label"] == ""


class TestACallThatDoesNotReturn:
    def test_because_it_waits_for_the_other_lets_the_other_go_on(self, xapi: Simulator) -> None:
        """PBD.unplug waits for a plug that is under way; the test uses no clock to see it."""

        def begin() -> None:
            xapi.add_sr("", sr_uuid=SR, plugged=False)

        def calling(method: str) -> Client:
            def run(session: Session) -> None:
                session.call(method, session.call("SR.get_PBDs", ref(session))[0])

            return Client(method, run)

        report = explore(xapi, begin, calling("PBD.plug"), calling("PBD.unplug"), preemptions=1)
        assert report.violations == []
        assert report.waited > 0
        strict = explore(
            xapi, lambda: None, calling("PBD.plug"), calling("PBD.unplug"), preemptions=1, may_wait=False
        )
        assert len(strict.violations) == strict.waited > 0
        assert "the pool made a call wait" in str(strict)

    def test_because_it_waits_for_an_event_lets_the_other_go_on(
        self, xapi: Simulator, begin: Callable[[], str]
    ) -> None:
        def wait_for_a(session: Session) -> None:
            token, classes = "", [f"sr/{ref(session)}"]
            while session.call("SR.get_name_label", ref(session)) != "a":
                token = session.call("event.from", classes, token, 300.0)["token"]

        begin()
        with Explorer(xapi, (Client("waits", wait_for_a), careless("a"))) as both:
            runs = [both.run(Schedule(start, (n,))) for start in (0, 1) for n in range(1, 5)]
        assert [(run.errors, run.stuck) for run in runs] == [((None, None), "")] * len(runs)

    def test_and_neither_does_the_other_s_is_a_violation(
        self, xapi: Simulator, begin: Callable[[], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both wait for an event that never comes."""
        monkeypatch.setattr(explorer, "PATIENCE", 0.2)
        begin()

        def wait(session: Session) -> None:
            token = session.call("event.from", [f"sr/{ref(session)}"], "", 0.0)["token"]
            session.call("event.from", [f"sr/{ref(session)}"], token, 1.0)

        with Explorer(xapi, (Client("a", wait), Client("b", wait))) as both:
            assert "neither client moved" in both.run(Schedule(0)).stuck

    def test_because_its_client_polls_is_followed_by_one_of_the_other(
        self, xapi: Simulator, begin: Callable[[], str]
    ) -> None:
        begin()

        def poll(session: Session) -> None:
            while session.call("SR.get_name_label", ref(session)) != "a":
                pass

        with Explorer(xapi, (Client("polls", poll), careless("a"))) as both:
            run = both.run(Schedule(0))
        assert run.errors == (None, None)
        assert run.stuck == ""


class TestASchedule:
    def test_runs_again_as_it_ran(self, xapi: Simulator, begin: Callable[[], str]) -> None:
        begin()
        with Explorer(xapi, (careless("a"), careless("b"))) as both:
            runs = [both.run(Schedule(1, (2, 3))) for _ in range(3)]
        assert len({run.steps for run in runs}) == 1
        assert [step.client for step in runs[0].steps] == [1, 1, 0, 1, 1, 0, 0, 0]
        assert runs[0].state == runs[1].state == runs[2].state

    def test_lets_the_calls_of_others_pass(self, xapi: Simulator, begin: Callable[[], str]) -> None:
        begin()

        def with_help(session: Session) -> None:
            from_another = threading.Thread(target=xapi.add_vm, args=("helper",))
            from_another.start()
            from_another.join()
            ref(session)

        with Explorer(xapi, (Client("a", with_help), careless("b"))) as both:
            assert both.run(Schedule(0)).errors == (None, None)

    def test_a_slow_call_has_two_steps_and_is_under_way_between_them(self, xapi: Simulator) -> None:
        """A VBD is currently_attached as soon as its plug begins, and has no device before the plug ends."""
        vm = xapi.add_vm("web")
        vbd = xapi.add_vbd(vm, xapi.add_vdi(xapi.add_sr("store"), "disk"), plugged=False)
        seen = []

        def look(session: Session) -> None:
            record = session.call("VBD.get_record", vbd)
            seen.append(
                (record["currently_attached"], record["device"], list(record["current_operations"].values()))
            )

        plug = Client("plug", lambda session: session.call("VBD.plug", vbd))
        with Explorer(xapi, (plug, Client("look", look))) as both:
            run = both.run(Schedule(0, (1,)))
        assert [step.call for step in run.steps] == ["VBD.plug", "VBD.get_record", "VBD.plug ends"]
        assert seen == [(True, "", ["plug"])]


def test_the_table_has_a_line_for_each_exploration() -> None:
    report = Report(("a", "b"), 0, schedules=12, gave_up=3, waited=1)
    assert explorer.table([("a x b", "nfs", report)]).splitlines()[-1] == "| a x b | nfs | 12 | 3 | 1 | 0 |"
    assert str(report) == "a x b: 12 schedules, 0 violations"


class TestLikeness:
    def test_two_pools_that_differ_in_made_up_names_are_alike(self, xapi: Simulator) -> None:
        changes, kept, found = Changes(xapi.snapshot()), xapi.checkpoint(), []
        for _ in range(2):
            vm = xapi.add_vm("web")
            xapi.add_sr("store", sr_uuid=SR)
            xapi.add_vbd(vm, None, type="CD", mode="RO")
            found.append(xapi.snapshot())
            xapi.restore(kept)
        assert found[0].difference(found[1]) != []
        assert differences(*map(changes.until, found)) == []

    def test_a_row_that_was_made_anew_as_it_had_been_is_no_change(
        self, xapi: Simulator, xapi_session: Session
    ) -> None:
        sr = xapi.add_sr("store", plugged=False)
        changes = Changes(xapi.snapshot())
        (pbd,) = xapi.db.children(sr, "PBDs")
        record = xapi_session.call("PBD.get_record", pbd)
        xapi_session.call("PBD.destroy", pbd)
        assert len(changes.until(xapi.snapshot())) == 1
        xapi_session.call("PBD.create", record)
        assert changes.until(xapi.snapshot()) == {}

    def test_what_is_gone_is_said(self, xapi: Simulator) -> None:
        sr = xapi.add_sr("store", plugged=False)
        changes = Changes(xapi.snapshot())
        with xapi.xapi.lock:
            xapi.db.delete("SR", sr)
        (line,) = changes.until(xapi.snapshot())
        assert line.startswith("no longer SR store: ")

    @pytest.mark.parametrize(("field", "value"), [("currently_attached", False), ("mode", "RO")])
    def test_a_disk_that_is_otherwise_plugged_is_not_alike(
        self, xapi: Simulator, field: str, value: object
    ) -> None:
        changes = Changes(xapi.snapshot())
        vbd = xapi.add_vbd(xapi.add_vm("web"), xapi.add_vdi(xapi.add_sr("store", sr_uuid=SR), "disk"))
        before = changes.until(xapi.snapshot())
        with xapi.xapi.lock:
            xapi.db.set("VBD", vbd, **{field: value})
        missing, there = differences(before, changes.until(xapi.snapshot()))
        assert missing.startswith("missing: VBD …: ")
        assert f"{field}={value}" in there

    def test_what_xapi_does_in_its_own_time_is_left_out(self, xapi: Simulator) -> None:
        sr = xapi.add_sr("store")
        changes = Changes(xapi.snapshot())
        with xapi.xapi.lock:
            xapi.db.set("SR", sr, allowed_operations=["scan"])
        assert changes.until(xapi.snapshot()) == {}
