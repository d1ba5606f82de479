"""Two snapshots of a pool show every change between them, and nothing else."""

from __future__ import annotations

import json
import time

import pytest
from xapi_client import PlainClient

from xenvol.simulator import Simulator
from xenvol.simulator.snapshot import VOLATILE, Snapshot


@pytest.fixture
def client(xapi: Simulator) -> PlainClient:
    return PlainClient(xapi)


class TestDifference:
    def test_nothing_differs_where_nothing_was_done(self, xapi: Simulator) -> None:
        before = xapi.snapshot()
        assert before.difference(xapi.snapshot()) == []
        assert before == xapi.snapshot()

    def test_reading_changes_nothing(self, xapi: Simulator, client: PlainClient) -> None:
        before = xapi.snapshot()
        client.call("host.get_all_records")
        client.call("SR.get_uuid", "OpaqueRef:none")
        assert before.difference(xapi.snapshot()) == []

    def test_a_new_object_is_named_with_what_it_belongs_to(self, xapi: Simulator) -> None:
        sr = xapi.add_sr("store")
        before = xapi.snapshot()
        vdi = xapi.add_vdi(sr, "disk")
        uuid = xapi.db.row("VDI", vdi)["uuid"]
        sr_uuid = xapi.db.row("SR", sr)["uuid"]
        lines = before.difference(xapi.snapshot())
        assert lines == [f'VDI "disk" ({uuid}) is new: SR "store" ({sr_uuid})']

    def test_a_gone_object_is_named(self, xapi: Simulator) -> None:
        sr = xapi.add_sr("store", plugged=False)
        before = xapi.snapshot()
        uuid = xapi.db.row("SR", sr)["uuid"]
        PlainClient(xapi).call("SR.forget", sr)
        lines = before.difference(xapi.snapshot())
        assert f'SR "store" ({uuid}) is gone' in lines
        assert [line.split()[0] for line in lines] == ["PBD", "SR"]

    def test_a_changed_field_shows_old_and_new(self, xapi: Simulator, client: PlainClient) -> None:
        sr = xapi.add_sr("store")
        uuid = xapi.db.row("SR", sr)["uuid"]
        before = xapi.snapshot()
        client.call("SR.set_name_label", sr, "shop")
        assert before.difference(xapi.snapshot()) == [f'SR "shop" ({uuid}): name_label: "store" → "shop"']

    def test_of_a_map_only_the_keys_that_differ_are_shown(self, xapi: Simulator, client: PlainClient) -> None:
        sr = xapi.add_sr("store", plugged=False)
        client.call("SR.add_to_other_config", sr, "a", "1")
        client.call("SR.add_to_other_config", sr, "b", "1")
        before = xapi.snapshot()
        client.call("SR.remove_from_other_config", sr, "b")
        client.call("SR.add_to_other_config", sr, "c", "2")
        (line,) = before.difference(xapi.snapshot())
        assert line.endswith('other_config: [b] "1" → absent, [c] absent → "2"')

    def test_references_are_shown_as_names(self, xapi: Simulator, client: PlainClient) -> None:
        sr = xapi.add_sr("store")
        before = xapi.snapshot()
        pool = xapi.db.refs("pool")[0]
        client.call("pool.set_default_SR", pool, sr)
        lines = before.difference(xapi.snapshot())
        uuid = xapi.db.row("SR", sr)["uuid"]
        assert any(line.endswith(f'default_SR: OpaqueRef:NULL → SR "store" ({uuid})') for line in lines)

    def test_an_object_that_was_made_anew_is_gone_and_new(self, xapi: Simulator) -> None:
        uuid = "11111111-2222-3333-4444-555555555555"
        first = xapi.add_sr("store", sr_uuid=uuid, plugged=False, hosts=[])
        before = xapi.snapshot()
        PlainClient(xapi).call("SR.forget", first)
        xapi.add_sr("store", sr_uuid=uuid, plugged=False, hosts=[])
        assert before.difference(xapi.snapshot()) == [
            f'SR "store" ({uuid}) is gone',
            f'SR "store" ({uuid}) is new',
        ]

    def test_what_is_volatile_is_left_out(self, xapi: Simulator) -> None:
        before = xapi.snapshot()
        client = PlainClient(xapi)
        client.call("Async.secret.destroy", "OpaqueRef:none")
        time.sleep(0.05)
        assert before.difference(xapi.snapshot()) == []

    def test_a_key_that_xapi_writes_by_itself_is_left_out(self, xapi: Simulator, client: PlainClient) -> None:
        vm, vdi = xapi.add_vm("vm"), xapi.add_vdi(xapi.add_sr("sr"))
        before = xapi.snapshot()
        vbd = xapi.add_vbd(vm, vdi)
        client.call("VBD.unplug", vbd)
        client.call("VBD.destroy", vbd)
        assert before.difference(xapi.snapshot()) == []
        client.call("VDI.add_to_other_config", vdi, "mine", "1")
        (line,) = before.difference(xapi.snapshot())
        assert line.endswith('other_config: [mine] absent → "1"')

    def test_each_exception_has_its_reason(self) -> None:
        assert all(reason for reason in VOLATILE.values())

    def test_more_can_be_ignored(self, xapi: Simulator, client: PlainClient) -> None:
        sr = xapi.add_sr("store")
        before = xapi.snapshot()
        client.call("SR.set_name_label", sr, "shop")
        assert before != xapi.snapshot()
        assert before.difference(xapi.snapshot(), ignore=["SR.name_label"]) == []
        assert before.difference(xapi.snapshot(), ignore=["SR"]) == []

    def test_the_order_of_a_set_does_not_count(self, xapi: Simulator, client: PlainClient) -> None:
        sr = xapi.add_sr("store", plugged=False)
        client.call("SR.set_tags", sr, ["a", "b"])
        before = xapi.snapshot()
        client.call("SR.set_tags", sr, ["b", "a"])
        assert before.difference(xapi.snapshot()) == []

    def test_a_value_of_a_secret_is_not_shown(self, xapi: Simulator, client: PlainClient) -> None:
        _, secret = client.call("secret.create", {"value": "hunter2", "other_config": {}})
        before = xapi.snapshot()
        client.call("secret.set_value", secret, "hunter3")
        (line,) = before.difference(xapi.snapshot())
        assert line.endswith(": value: changed")


class TestStorage:
    def test_a_session_that_was_left_behind_is_told(self, xapi: Simulator) -> None:
        world = xapi.storage
        world.san.add_target("iqn.t", "10.0.0.1")
        world.san.add_lun("iqn.t", 0, 1 << 30, scsi_id="3600")
        before = xapi.snapshot()
        world.host("host1").initiator.login(world.san, "10.0.0.1:3260", "iqn.t", None, None)
        assert before.difference(xapi.snapshot()) == [
            'storage.hosts.host1: absent → {iscsi_sessions: {10.0.0.1:3260 iqn.t: {0: "3600"}}}'
        ]

    def test_a_mount_that_was_left_behind_is_told(self, xapi: Simulator) -> None:
        mounts = xapi.storage.host("host1").mounts
        mounts.make_directory("/run/sr-mount")
        before = xapi.snapshot()
        mounts.mount(
            "/run/sr-mount/1", xapi.storage.shares.add_nfs("10.0.0.2").export("/e", size=1).filesystem.root
        )
        lines = before.difference(xapi.snapshot())
        assert 'storage.hosts.host1: absent → {mounts: {/run/sr-mount/1: "mounted"}}' in lines

    def test_a_file_that_was_left_behind_is_told(self, xapi: Simulator) -> None:
        export = xapi.storage.shares.add_nfs("10.0.0.2").export("/e", size=1 << 30)
        before = xapi.snapshot()
        export.filesystem.root.add_file("left", 4)
        assert before.difference(xapi.snapshot()) == ["storage.servers.nfs 10.0.0.2:/e./left: absent → 4"]

    def test_a_lun_that_grew_is_told(self, xapi: Simulator) -> None:
        xapi.storage.san.add_target("iqn.t", "10.0.0.1")
        lun = xapi.storage.san.add_lun("iqn.t", 0, 1 << 30, scsi_id="3600")
        before = xapi.snapshot()
        lun.resize(2 << 30)
        assert before.difference(xapi.snapshot()) == ["storage.luns.3600: 1073741824 → 2147483648"]

    def test_looking_at_a_host_is_no_change(self, xapi: Simulator) -> None:
        before = xapi.snapshot()
        xapi.storage.host("host1")
        assert before == xapi.snapshot()


class TestJSON:
    def test_a_snapshot_survives_json(self, xapi: Simulator) -> None:
        xapi.add_sr("store")
        before = xapi.snapshot()
        again = Snapshot.from_json(json.loads(json.dumps(before.as_json())))
        assert again == before

    def test_something_else_is_no_snapshot(self) -> None:
        with pytest.raises(ValueError, match="objects"):
            Snapshot.from_json({"objects": []})

    def test_the_repr_tells_the_size(self, xapi: Simulator) -> None:
        assert repr(xapi.snapshot()).endswith(" objects>")
