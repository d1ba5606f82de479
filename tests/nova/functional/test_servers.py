"""What users do with a server beside its volumes, a server that cannot be built, and what the driver refuses."""

from __future__ import annotations

import uuid

from nova.tests.functional.api.client import OpenStackApiException

from tests.nova.functional.lab import ROOT, Lab
from tests.scenarios import GIB, changes

SPARE = str(uuid.UUID(int=3))


class TestServers(Lab):
    def test_a_server_is_paused_suspended_and_shelved_and_comes_back_each_time_with_its_disk(self) -> None:
        self.add_suspend_sr()
        before = self.xapi.snapshot()
        server = self.boot(ROOT)
        for there, back, status in (("pause", "unpause", "PAUSED"), ("suspend", "resume", "SUSPENDED")):
            self.api.post_server_action(server["id"], {there: None})
            self._wait_for_state_change(server, status)
            self.api.post_server_action(server["id"], {back: None})
            self._wait_for_state_change(server, "ACTIVE")
            self.assertEqual({"0": True}, self.disks_of(server), there)
        self._shelve_server(server)
        self.assertEqual([], changes(before, self.xapi.snapshot()))  # it has left the pool
        self._unshelve_server(server)
        self.assertEqual({"0": True}, self.disks_of(server))
        self._delete_server(server)
        self.assertEqual([], changes(before, self.xapi.snapshot()))

    def test_a_suspend_without_an_sr_for_the_memory_says_so_and_the_server_runs_on(self) -> None:
        server = self.boot(ROOT)
        with self.assertRaises(OpenStackApiException):
            self.api.post_server_action(server["id"], {"suspend": None})
        self.assertEqual("ACTIVE", self._show_server(server)["status"])

    def test_a_server_that_cannot_be_built_leaves_nothing(self) -> None:
        before = self.xapi.snapshot()
        for order in (
            lambda faults: faults.refuse("VM.create", "LICENSE_RESTRICTION", ""),
            lambda faults: faults.lose_answer("VM.create"),
            lambda faults: faults.refuse("PBD.plug", "SR_BACKEND_FAILURE_141", "", "no such target", ""),
            lambda faults: faults.refuse("VBD.create", "INTERNAL_ERROR", "why"),
            lambda faults: faults.refuse("VM.start_on", "HOST_NOT_ENOUGH_FREE_MEMORY", "1", "0"),
            lambda faults: faults.lose_answer("VM.start_on"),
        ):
            order(self.xapi.faults)
            server = self.boot(ROOT, expected_state="ERROR")
            self.xapi.faults.clear()
            self.assertEqual([], changes(before, self.xapi.snapshot()))
            self._delete_server(server)
            self.assertEqual([], changes(before, self.xapi.snapshot()))

    def test_a_volume_is_swapped_for_another_one_with_its_content_in_a_running_server(self) -> None:
        old, new = self.two_files()
        server = self.boot(ROOT, old)
        before = self.xapi.snapshot()
        self.write(old, b"what the guest wrote")
        self.api.put_server_volume(server["id"], old, new)
        self.assertEqual({ROOT, new}, self.volumes_of(server))
        self.assertEqual({"0": True, "1": True}, self.disks_of(server))
        self.detach(server, new)
        self.assertEqual(b"what the guest wrote", self.read(new))

    def test_a_swap_that_fails_leaves_the_old_volume_in_place(self) -> None:
        old, new = self.two_files()
        server = self.boot(ROOT, old)
        before = self.xapi.snapshot()
        self.xapi.faults.refuse("PUT /import_raw_vdi", "VDI_IO_ERROR", "why")
        with self.assertRaises(OpenStackApiException):
            self.api.put_server_volume(server["id"], old, new)
        self.assertEqual({ROOT, old}, self.volumes_of(server))
        self.assertEqual([], changes(before, self.xapi.snapshot()))

    def test_what_the_driver_does_not_do_is_refused_and_the_server_runs_on(self) -> None:
        server = self.boot(ROOT)
        for action, status in (
            ({"os-getConsoleOutput": {}}, 501),
            ({"os-getVNCConsole": {"type": "novnc"}}, 501),
            ({"resize": {"flavorRef": "2"}}, 500),
            ({"rescue": {}}, 500),
        ):
            print(action)
            try: self.api.post_server_action(server["id"], action)
            except Exception as e: print(repr(e)[:300])
            import time; time.sleep(1)
            server = self._show_server(server); print(server["status"], server["OS-EXT-STS:task_state"], server.get("fault",{}).get("message"))
