"""A server that moves between two hosts of a pool: their drivers, called as nova calls them.

nova's fixtures have one CONF.host for all services of the process, so they cannot have two computes that detach. The
tests with real processes have them.
"""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any
from unittest import mock

from nova import exception, objects
from nova.compute import power_state
from nova.virt.xenvol import Driver

from tests.nova.functional.lab import ROOT, ROOT_INFO, Pool
from tests.scenarios import changes


class TestMoves(Pool):
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

    def test_a_migration_whose_answer_is_lost_is_judged_by_where_the_server_is(self) -> None:
        self.spawn(self.source, "first")
        recover, post = mock.Mock(), mock.Mock()
        self.xapi.faults.lose_answer("VM.pool_migrate")
        self.migrate("second", recover, post)
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
