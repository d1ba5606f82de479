"""Every kind of volume of ours in a server of nova: its life, and each call of an attach and of a detach failing.

The pool is compared before and after, field by field.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import testscenarios
from nova.tests.functional.api.client import OpenStackApiException

from tests.nova.functional.lab import ROOT, Lab
from tests.scenarios import GIB, SCENARIOS, Scenario, changes
from xenvol.pool import waiting
from xenvol.testing import sweep

VOLUME = str(uuid.UUID(int=2))
GREW = ("storage.luns.", "storage.servers.")
"""So begin the lines about the storage itself. Those about what a host has logged in to, or mounted, do not."""


class _OfAKind(testscenarios.WithScenarios, Lab):
    scenarios = [(scenario.name, {"scenario": scenario}) for scenario in SCENARIOS]
    scenario: Scenario

    def setUp(self) -> None:
        super().setUp()
        self.scenario.arrange(self.xapi)
        self.connection_infos[VOLUME] = self.scenario.connection_info


class TestLife(_OfAKind):
    def test_a_server_boots_is_rebooted_extended_stopped_and_deleted_and_nothing_is_left(self) -> None:
        before = self.xapi.snapshot()
        server = self.boot(VOLUME)
        self.assertEqual({"0": True}, self.disks_of(server["id"]))
        for hard in (False, True):
            self._reboot_server(server, hard=hard)
            self.assertEqual({"0": True}, self.disks_of(server["id"]))
        self.scenario.grow(self.xapi)
        if self.scenario.name.startswith("iscsi"):  # xapi sees how a LUN grew only while it is not plugged
            with self.assertRaises(OpenStackApiException):
                self.extended(server, VOLUME)
            self.assertEqual(GIB, self.size_of(server["id"], "0"))
        else:
            self.extended(server, VOLUME)
            self.assertEqual(2 * GIB, self.size_of(server["id"], "0"))
        self._stop_server(server)
        self.assertEqual({"0": False}, self.disks_of(server["id"]))
        self.extended(server, VOLUME)
        self.assertEqual(2 * GIB, self.size_of(server["id"], "0"))
        self._start_server(server)
        self.assertEqual({"0": True}, self.disks_of(server["id"]))
        self._delete_server(server)
        left = changes(before, self.xapi.snapshot())
        self.assertEqual([], [line for line in left if not line.startswith(GREW)], left)


class TestAttaching(_OfAKind):
    scenarios = [kind for kind in _OfAKind.scenarios if kind[0] != "xensm-nfs"]  # to xenvol it is as gluster

    def setUp(self) -> None:
        super().setUp()
        self.server = self.boot(ROOT)
        self.attach(self.server, VOLUME)  # so that the session has cached what it caches
        self.detach(self.server, VOLUME)
        self.pristine = self.xapi.snapshot()
        self.enterContext(waiting.grace())  # an attempt that failed counts as dead at once

    def test_the_volume_comes_and_goes_and_each_call_of_that_is_refused_and_its_answer_lost(self) -> None:
        """An attach that is refused leaves nothing. Whatever failed otherwise, the same request again completes it."""
        for case in self.attaches(sweep.refuse):
            self.assertIsInstance(case.error, OpenStackApiException, case)
            self.check_is_as_it_was(case)
        for case in self.attaches(sweep.lose_answer):
            if not self.is_attached():
                self.attach(self.server, VOLUME)
            self.assertEqual({"0": True, "1": True}, self.disks_of(self.server["id"]), case)
            self.detach(self.server, VOLUME)
            self.check_is_as_it_was(case)
        for strike in (sweep.refuse, sweep.lose_answer):
            for case in self.detaches(strike):
                self.assertEqual(case.error is not None, self.is_attached(), case)
                self.detach_if_attached()
                self.assertEqual({"0": True}, self.disks_of(self.server["id"]), case)
                self.check_is_as_it_was(case)
        self.check_a_stopped_server()

    def check_a_stopped_server(self) -> None:
        self._stop_server(self.server)
        stopped = self.xapi.snapshot()
        self.attach(self.server, VOLUME)
        self.assertEqual({"0": False, "1": False}, self.disks_of(self.server["id"]))
        self.detach(self.server, VOLUME)
        self.assertEqual({ROOT}, self.volumes_of(self.server))
        self.assertEqual([], changes(stopped, self.xapi.snapshot()))

    def attaches(self, strike: sweep.Strike) -> Iterator[sweep.Case[None]]:
        return sweep.each_call(
            self.xapi,
            _nothing,
            lambda _: self.attach(self.server, VOLUME),
            strike,
            again=lambda _: self.detach_if_attached(),
        )

    def detaches(self, strike: sweep.Strike) -> Iterator[sweep.Case[None]]:
        return sweep.each_call(
            self.xapi,
            _nothing,
            lambda _: self.detach(self.server, VOLUME),
            strike,
            again=lambda _: self.attach(self.server, VOLUME),
        )

    def is_attached(self) -> bool:
        """Whether Cinder has an attachment of the volume; cheaper than nova's API."""
        return self.cinder.volume_to_attachment[VOLUME] != {}

    def detach_if_attached(self) -> None:
        if self.is_attached():
            self.detach(self.server, VOLUME)

    def check_is_as_it_was(self, case: sweep.Case[None]) -> None:
        self.assertFalse(self.is_attached(), case)
        self.assertEqual({ROOT}, self.volumes_of(self.server), case)
        self.assertEqual([], changes(self.pristine, self.xapi.snapshot()), case)


def _nothing() -> None: ...


load_tests = testscenarios.load_tests_apply_scenarios
