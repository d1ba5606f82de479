"""What users do with a server beside its volumes, a server that cannot be built, and what the driver refuses."""

from __future__ import annotations

from nova.tests.fixtures.cinder import CinderFixture
from nova.tests.functional.api.client import OpenStackApiException

from tests.nova.functional.lab import ROOT, Lab
from tests.scenarios import GIB, MIB, arrange_target, changes, iscsi

OLD, NEW = CinderFixture.SWAP_OLD_VOL, CinderFixture.SWAP_NEW_VOL
"""The fixture says of the first, once it is attached, that Cinder migrates it: else nova refuses to swap it."""
WRITTEN = b"what the guest wrote".ljust(MIB, b"\0")


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
            self.assertEqual({"0": True}, self.disks_of(server["id"]), there)
        self._shelve_server(server)
        self.assertEqual([], changes(before, self.xapi.snapshot()))  # it has left the pool
        self._unshelve_server(server)
        self.assertEqual({"0": True}, self.disks_of(server["id"]))
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

    def test_what_the_driver_does_not_do_is_refused_and_the_server_runs_on(self) -> None:
        server = self.boot(ROOT)
        for action, status in (
            ({"os-getConsoleOutput": {}}, 501),
            ({"resize": {"flavorRef": "2"}}, 500),
            ({"rescue": {}}, 400),
        ):
            with self.assertRaises(OpenStackApiException) as refused:
                self.api.post_server_action(server["id"], action)
            self.assertEqual(status, refused.exception.response.status_code, action)
            self.assertEqual("ACTIVE", self._show_server(server)["status"], action)

    def test_a_server_with_a_network_or_a_config_drive_is_refused_and_nothing_is_left(self) -> None:
        before = self.xapi.snapshot()
        for wish, what in (({"networks": "auto"}, "networks"), ({"config_drive": True}, "a config drive")):
            server = self.boot(ROOT, expected_state="ERROR", **wish)
            self.assertIn(f"xenvol.Driver does not support {what}", self.fault_of(server))
            self.assertEqual([], changes(before, self.xapi.snapshot()))
            self._delete_server(server)

    def test_a_server_with_a_local_disk_is_sent_to_no_host(self) -> None:
        made = self.api.post_server({"server": self._build_server(networks="none")})
        server = self._wait_for_state_change(made, "ERROR")
        self.assertIn("No valid host", server["fault"]["message"])

    def test_a_host_offers_its_processors_and_its_memory(self) -> None:
        (provider,) = self._get_all_providers()
        self.assertEqual("host1", provider["name"])
        inventory = self._get_provider_inventory(provider["uuid"])
        self.assertEqual(
            {"VCPU": 16, "MEMORY_MB": 1 << 20}, {kind: each["total"] for kind, each in inventory.items()}
        )
        traits = self._get_provider_traits(provider["uuid"])
        self.assertIn("COMPUTE_VOLUME_EXTEND", traits)
        self.assertNotIn("COMPUTE_NET_ATTACH_INTERFACE", traits)


class TestMultiattach(Lab):
    def test_two_servers_share_a_volume_and_each_detaches_its_own(self) -> None:
        shared, other_root = CinderFixture.MULTIATTACH_VOL, OLD
        arrange_target(self.xapi)
        self.connection_infos |= {shared: iscsi(0), other_root: iscsi(1)}
        before = self.xapi.snapshot()
        servers = [self.boot(root) for root in (ROOT, other_root)]
        for server in servers:
            self.attach(server, shared)
        self.assertEqual([{"0": True, "1": True}] * 2, [self.disks_of(server["id"]) for server in servers])
        self.detach(servers[0], shared)
        self.assertEqual(
            [{"0": True}, {"0": True, "1": True}], [self.disks_of(server["id"]) for server in servers]
        )
        for server in servers:
            self._delete_server(server)
        self.assertEqual([], changes(before, self.xapi.snapshot()))


class TestSwap(Lab):
    """Two volumes on an NFS share, of which the server has the first."""

    def setUp(self) -> None:
        super().setUp()
        share = self.xapi.storage.shares.add_nfs("10.0.0.2").export("/vols", size=GIB)
        self.files = {}
        for volume_id in (OLD, NEW):
            file = share.filesystem.root.add_vhd(volume_id, MIB)
            self.files[volume_id] = file.bytes_in(self.xapi.storage.shares.new_file)
            data = {"export": "10.0.0.2:/vols", "name": f"{volume_id}.vhd"}
            self.connection_infos[volume_id] = {"driver_volume_type": "nfs", "data": data}
        self.files[OLD].write_bytes(WRITTEN)
        self.pristine = self.xapi.snapshot()
        self.server = self.boot(ROOT, OLD)

    def test_the_server_has_the_other_volume_with_the_content_of_the_first(self) -> None:
        self.api.put_server_volume(self.server["id"], OLD, NEW)
        self.assertEqual({ROOT, NEW}, self.volumes_of(self.server))
        self.assertEqual({"0": True, "1": True}, self.disks_of(self.server["id"]))
        self.assertEqual(WRITTEN, self.files[NEW].read_bytes())
        self.detach(self.server, NEW)
        self.assertEqual({"0": True}, self.disks_of(self.server["id"]))

    def test_a_copy_that_fails_gives_the_server_its_volume_back_and_leaves_nothing_of_the_other(self) -> None:
        self.xapi.faults.refuse("VDI.copy", "VDI_IO_ERROR", "why")
        with self.xapi.journal.recording() as calls, self.assertRaises(OpenStackApiException):
            self.api.put_server_volume(self.server["id"], OLD, NEW)
        self.assertIn("Async.VDI.copy", calls.methods())
        self.assertEqual({ROOT, OLD}, self.volumes_of(self.server))
        self.assertEqual({"0": True, "1": True}, self.disks_of(self.server["id"]))
        self.assertEqual(WRITTEN, self.files[OLD].read_bytes())
        self._delete_server(self.server)
        self.assertEqual([], changes(self.pristine, self.xapi.snapshot()))
