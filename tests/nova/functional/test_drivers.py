"""The drivers of two hosts of a pool, called as nova calls them: what its fixtures in one process do not show.

They have one CONF.host for all services, so they cannot have two computes that detach. Tests with real processes can.
"""

from __future__ import annotations

import threading
import time
import uuid
from types import SimpleNamespace
from typing import Any
from unittest import mock

from nova import exception, objects
from nova.compute import power_state
from nova.virt.xenvol import Driver

from tests.nova.functional.lab import ROOT, ROOT_INFO, Pool
from tests.scenarios import arrange_target, changes, iscsi


class TestDrivers(Pool):
    hosts = 2

    def setUp(self) -> None:
        super().setUp()
        self.pristine = self.xapi.snapshot()
        self.source, self.destination = self.start("host1"), self.start("host2")
        self.instance = SimpleNamespace(
            uuid=str(uuid.UUID(int=9)),
            display_name="web",
            flavor=SimpleNamespace(memory_mb=512, vcpus=1),
            image_ref="",
            image_meta=SimpleNamespace(properties={}),
            config_drive="",
            launched_at=None,
            root_device_name="/dev/xvda",
        )

    def start(self, host: str) -> Driver:
        self.configure(host)
        driver = Driver(None)
        driver.init_host(host)
        self.addCleanup(driver.cleanup_host, host)
        return driver

    def volume(self, attachment_id: str) -> dict[str, Any]:
        data = ROOT_INFO["data"] | {"volume_id": ROOT, "attachment_id": attachment_id}
        return {"connection_info": ROOT_INFO | {"data": data}, "mount_device": "/dev/xvda"}

    def spawn(self, driver: Driver, attachment_id: str) -> None:
        mapping = {"block_device_mapping": [self.volume(attachment_id)]}
        driver.spawn(None, self.instance, None, [], "", {}, block_device_info=mapping)

    def migrate(self, attachment_id: str, recover: mock.Mock, post: mock.Mock) -> None:
        mapping = {"block_device_mapping": [self.volume(attachment_id)]}
        data = self.destination.check_can_live_migrate_destination(
            None, self.instance, None, None, False, False
        )
        data = self.source.check_can_live_migrate_source(None, self.instance, data)
        self.destination.pre_live_migration(None, self.instance, mapping, None, None, data)
        node = SimpleNamespace(hypervisor_hostname="host2")
        with mock.patch.object(
            objects.ComputeNode, "get_first_node_by_host_for_old_compat", return_value=node
        ):
            self.source.live_migration(None, self.instance, "compute2", post, recover, False, data)

    def test_a_spawn_that_fails_leaves_nothing_also_where_nova_does_not_destroy_after_it(self) -> None:
        """After a failed unshelve it does not."""
        self.xapi.faults.refuse("VM.start_on", "HOST_NOT_ENOUGH_FREE_MEMORY", "1", "0")
        with self.assertRaises(exception.NovaException):
            self.spawn(self.source, "first")
        self.assertEqual([], changes(self.pristine, self.xapi.snapshot()))

    def test_a_server_is_destroyed_with_a_volume_of_which_nova_has_no_connection_info(self) -> None:
        """It saves that after the attach, unless it is killed before."""
        arrange_target(self.xapi)
        pristine = self.xapi.snapshot()
        self.spawn(self.source, "first")
        self.source.attach_volume(None, iscsi(1), self.instance, "/dev/xvdb")
        mapping = {"block_device_mapping": [self.volume("first")]}
        self.source.destroy(None, self.instance, None, mapping)
        self.assertEqual([], changes(pristine, self.xapi.snapshot()))

    def test_a_volume_that_a_killed_service_has_connected_is_released_when_the_server_is_destroyed(
        self,
    ) -> None:
        volume = self.volume("first")
        self.source._volumes.connect_volume(volume["connection_info"])
        self.source.destroy(None, self.instance, None, {"block_device_mapping": [volume]})
        self.assertEqual([], changes(self.pristine, self.xapi.snapshot()))

    def test_a_hard_reboot_attaches_what_is_not_attached(self) -> None:
        self.spawn(self.source, "first")
        self.source.power_off(self.instance)
        volume = self.volume("first")
        self.source.detach_volume(None, volume["connection_info"], self.instance, "/dev/xvda")
        self.source.reboot(None, self.instance, None, "HARD", {"block_device_mapping": [volume]})
        self.assertEqual({"0": True}, self.disks_of(self.instance.uuid))

    def test_a_guest_that_does_not_shut_down_in_time_or_cannot_is_powered_off(self) -> None:
        self.spawn(self.source, "first")
        (vm,) = self.xapi.db.by_name("VM", self.instance.uuid)
        with self.xapi.xapi.lock:
            self.xapi.db.set("VM", vm, shutdown_delay=1)  # second
        self.power_off_hard()
        with self.xapi.xapi.lock:
            self.xapi.db.set("VM", vm, shutdown_delay=0, platform={})  # without Xen's drivers
        self.source.power_on(None, self.instance, None)
        self.power_off_hard()

    def power_off_hard(self) -> None:
        with self.xapi.journal.recording() as calls:
            self.source.power_off(self.instance, timeout=0.1)
        self.assertIn("Async.VM.hard_shutdown", calls.methods())
        self.assertEqual(power_state.SHUTDOWN, self.source.get_info(self.instance).state)

    def test_a_live_migration_takes_the_server_and_its_volumes_to_the_other_host(self) -> None:
        self.spawn(self.source, "first")
        recover, post = mock.Mock(), mock.Mock()
        self.migrate("second", recover, post)
        post.assert_called_once()
        recover.assert_not_called()
        mapping = {"block_device_mapping": [self.volume("first")]}
        self.source.post_live_migration(None, self.instance, mapping)
        mapping = {"block_device_mapping": [self.volume("second")]}
        self.destination.post_live_migration_at_destination(None, self.instance, None, False, mapping)
        self.assertEqual([], self.source.list_instance_uuids())
        self.assertEqual([self.instance.uuid], self.destination.list_instance_uuids())
        self.source.destroy(None, self.instance, None, mapping)  # spares it, as it is not there
        self.assertEqual({"0": True}, self.disks_of(self.instance.uuid))
        self.destination.power_off(self.instance)
        self.assertEqual([self.instance.uuid], self.destination.list_instance_uuids())
        self.destination.detach_volume(
            None, self.volume("second")["connection_info"], self.instance, "/dev/xvda"
        )
        self.assertEqual({}, self.disks_of(self.instance.uuid))
        self.destination.destroy(None, self.instance, None, mapping)
        self.assertEqual([], changes(self.pristine, self.xapi.snapshot()))

    def test_a_live_migration_that_fails_leaves_the_server_and_its_disk_where_they_were(self) -> None:
        self.spawn(self.source, "first")
        self.fail_to_migrate()  # the spawn connected the volume on all hosts; it is not on the destination any more
        before = self.xapi.snapshot()
        self.fail_to_migrate()
        self.assertEqual([], changes(before, self.xapi.snapshot()))
        self.assertEqual([self.instance.uuid], self.source.list_instance_uuids())
        self.assertEqual({"0": True}, self.disks_of(self.instance.uuid))

    def fail_to_migrate(self) -> None:
        recover, post = mock.Mock(), mock.Mock()
        self.xapi.faults.refuse("VM.pool_migrate", "VM_MIGRATE_FAILED", "", "", "", "why")
        self.migrate("second", recover, post)
        recover.assert_called_once()
        post.assert_not_called()
        # what nova asks of the destination then
        self.destination.detach_volume(
            None, self.volume("second")["connection_info"], self.instance, "/dev/xvda"
        )

    def test_a_migration_without_an_answer_is_waited_for_and_judged_by_where_the_server_is(self) -> None:
        self.spawn(self.source, "first")
        recover, post = mock.Mock(), mock.Mock()
        (vm,) = self.xapi.db.by_name("VM", self.instance.uuid)
        self.xapi.guest(vm).stays_in_flight = True
        self.xapi.faults.lose_answer("VM.pool_migrate")
        migration = threading.Thread(target=self.migrate, args=("second", recover, post))
        migration.start()
        while migration.is_alive() and "task.get_all_records_where" not in self.xapi.journal.methods():
            time.sleep(0.02)
        self.xapi.guest(vm).stays_in_flight = False
        migration.join()
        post.assert_called_once()
        recover.assert_not_called()

    def test_a_server_is_evacuated_from_a_host_that_died_and_spared_when_that_comes_back(self) -> None:
        self.spawn(self.destination, "first")
        self.xapi.faults.die(host="host2")
        self.spawn(self.source, "second")
        self.assertEqual([self.instance.uuid], self.source.list_instance_uuids())
        self.assertEqual({"0": True}, self.disks_of(self.instance.uuid))
        self.xapi.faults.come_back("host2")
        mapping = {"block_device_mapping": [self.volume("second")]}
        self.destination.destroy(None, self.instance, None, mapping)  # spares it
        self.assertEqual([], self.destination.list_instance_uuids())
        self.assertEqual(power_state.RUNNING, self.source.get_info(self.instance).state)
        self.source.destroy(None, self.instance, None, mapping)
        self.assertEqual([], changes(self.pristine, self.xapi.snapshot()))

    def test_a_server_is_not_evacuated_from_a_host_that_lives(self) -> None:
        self.spawn(self.source, "first")
        before = self.xapi.snapshot()
        with self.assertRaises(exception.InstanceExists):
            self.spawn(self.destination, "second")
        self.assertEqual([], changes(before, self.xapi.snapshot()))

    def test_a_server_that_was_halted_is_taken_over(self) -> None:
        self.spawn(self.source, "first")
        self.source.power_off(self.instance)
        self.spawn(self.destination, "second")
        self.assertEqual([self.instance.uuid], self.destination.list_instance_uuids())
        self.assertEqual(power_state.RUNNING, self.destination.get_info(self.instance).state)
        self.destination.destroy(None, self.instance, None, None)
        self.assertEqual([], changes(self.pristine, self.xapi.snapshot()))
