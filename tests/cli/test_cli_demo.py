"""The demo is honest: it goes over the wire, computes its verdict, and finds what is left behind."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from xenvol.cli.app import app
from xenvol.cli.demo import story, view
from xenvol.cli.demo.control import anonymous, split, traces_of_the_bare_client
from xenvol.cli.demo.facts import Story, Trial
from xenvol.cli.demo.volumes import CHAP

LEAKY = """
import uuid
from xenvol.drivers.iscsi import ISCSIDriver

class Driver(ISCSIDriver):
    def disconnect_volume(self, connection_data):
        super().disconnect_volume(connection_data)
        left = (str(uuid.uuid4()), "xenvol " + connection_data["target_iqn"], "", "iscsi", "", True, {})
        self.session.xenapi.SR.introduce(*left)
"""


@pytest.fixture(scope="module")
def told() -> Story:
    return story.tell()


def shown(told: Story, **options: Any) -> str:
    console = Console(file=io.StringIO(), highlight=False, **options)
    view.show(told, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class TestWhatHappens:
    def test_nothing_is_left(self, told: Story) -> None:
        assert told.left == []
        assert told.is_clean

    def test_a_volume_of_each_type_is_in_the_vm(self, told: Story) -> None:
        assert [disk.driver for disk in told.disks] == [None, "iscsi", "nfs", "gluster", "xensm"]
        assert [disk.device for disk in told.disks] == ["xvda", "xvdb", "xvdc", "xvde", "xvdf"]

    def test_the_pool_has_three_hosts(self, told: Story) -> None:
        assert [(host.name, host.is_master) for host in told.hosts] == [
            ("xen1", True),
            ("xen2", False),
            ("xen3", False),
        ]
        assert told.vm_host == "xen2"

    def test_every_call_is_explained(self, told: Story) -> None:
        """A call that the table of words does not know would show up as a gap."""
        trials = [told.refused.calls, told.refused.retry_calls, told.unanswered.calls]
        calls = [call for step in (*told.attached, *told.detached) for call in step.calls]
        calls += [call for trial in trials for call in trial]
        assert [call.call for call in calls if not call.about or "a host" in call.about] == []

    def test_a_refusal_is_an_error_with_a_hint_and_the_same_call_again_completes(self, told: Story) -> None:
        trial = told.refused
        assert trial.error is not None
        assert trial.error["code"] == "SR_BACKEND_FAILURE_141"
        assert trial.error["hint"]
        assert trial.is_survived
        assert [call.call for call in trial.retry_calls] == [call.call for call in told.attached[0].calls]

    def test_a_lost_answer_is_asked_after(self, told: Story) -> None:
        trial = told.unanswered
        assert trial.error is None
        assert trial.is_survived
        struck = trial.struck
        assert struck is not None
        assert trial.calls[struck].call == "VBD.get_currently_attached"


class TestVerdict:
    def test_it_is_bad_when_anything_is_left(self, told: Story) -> None:
        assert not dataclasses.replace(told, left=["SR x is new"]).is_clean

    def test_it_is_bad_when_a_fault_was_not_survived_or_never_struck(self, told: Story) -> None:
        def with_trial(**changes: Any) -> Trial:
            return dataclasses.replace(told.refused, **changes)

        assert not dataclasses.replace(told, refused=with_trial(left=["SR x is new"])).is_clean
        assert not dataclasses.replace(told, unanswered=with_trial(calls=told.attached[0].calls)).is_clean

    def test_a_driver_that_leaves_its_sr_is_caught(
        self, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The test runs the whole command, with another package's driver in place of ours."""
        install("leaky", "iscsi", LEAKY)
        monkeypatch.setenv("XENVOL_DRIVER_ISCSI", "leaky")
        result = CliRunner().invoke(app, ["demo"])
        assert result.exit_code == 1, result.output
        assert re.search(r"SR .*iqn.2010-10.org.openstack:volumes.* is new", result.stdout)
        assert result.stdout.splitlines()[-1].startswith("✗ ")
        assert json.loads(CliRunner().invoke(app, ["demo", "--json"]).stdout)["is_clean"] is False


class TestControl:
    """The traces that a pool itself leaves are those that it leaves without xenvol."""

    def test_every_line_that_is_excused_was_seen_with_the_bare_client(self, told: Story) -> None:
        control = [anonymous(line) for line in traces_of_the_bare_client()]
        assert told.left_by_the_pool
        assert all(anonymous(line) in control for line in told.left_by_the_pool)

    def test_a_line_is_excused_as_often_as_it_was_seen_and_not_more(self) -> None:
        one = "VM x: [storage_driver_domain] OpaqueRef:12345678-1234-1234-1234-123456789abc → none"
        other = one.replace("12345678-", "abcdef01-")
        assert split([one, other], [other]) == ([other], [one])

    def test_a_thing_that_is_new_is_never_excused(self) -> None:
        control = traces_of_the_bare_client()
        new = "SR 5a000000-0000-4000-8000-000000000001 is new"
        assert split([new, *control], control) == ([new], control)


class TestLook:
    @pytest.mark.parametrize("width", [80, 100, 200])
    def test_it_fits_the_terminal_and_is_never_wider_than_100_columns(self, told: Story, width: int) -> None:
        text = shown(told, width=width, force_terminal=True, color_system=None)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= min(width, 100)

    def test_it_fits_on_about_two_screens_and_ends_with_one_line_of_verdict(self, told: Story) -> None:
        lines = shown(told).splitlines()
        assert len(lines) <= 90
        assert re.fullmatch(
            r"✓ xenvol left nothing: 4 volumes attached and detached, 2 of 2 faults survived; \d+ calls, [\d.]+ s\.",
            lines[-1].rstrip(),
        )

    def test_each_step_shows_how_many_calls_it_took(self, told: Story) -> None:
        totals = re.findall(r"^calls in all\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", shown(told), re.MULTILINE)
        assert totals == [
            tuple(str(len(step.calls)) for step in steps) for steps in (told.attached, told.detached)
        ]

    def test_without_a_terminal_there_is_no_colour(self) -> None:
        result = CliRunner().invoke(app, ["demo"], env={"NO_COLOR": None})
        assert result.exit_code == 0
        assert "\x1b" not in result.stdout

    def test_no_color_is_honoured_in_a_terminal(self, told: Story, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        assert not re.search(r"\x1b\[[\d;]*3[0-7]", shown(told, force_terminal=True))


class TestJson:
    def test_it_has_the_same_facts(self) -> None:
        result = CliRunner().invoke(app, ["demo", "--json"])
        assert (result.exit_code, result.stderr) == (0, "")
        value = json.loads(result.stdout)
        assert set(value) == {
            "url", "version", "pool", "hosts", "vm", "vm_host", "attached", "disks", "detached", "refused",
            "unanswered", "objects", "left", "left_by_the_pool", "calls", "seconds", "is_clean",
        }  # fmt: skip  # because a set of words reads better in lines than in a column
        assert set(value["attached"][0]) == {"driver", "volume_id", "calls"}
        assert set(value["attached"][0]["calls"][0]) == {
            "n", "call", "about", "is_change", "milliseconds", "outcome", "fault",
        }  # fmt: skip  # the same
        assert value["is_clean"] is True

    def test_no_password_is_in_it(self, told: Story) -> None:
        assert CHAP[1] not in json.dumps(told.as_dict()) + shown(told)
