"""A row as a value: nothing of it is lost, and internal fields are not shown."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.sm.conftest import NFS, on_every_database
from tests.sm.values import ALL_FEATURES, GIB, THEN, a_backend, a_flavor
from xenvol.sm import StorageManager
from xenvol.sm.placement import FEATURES
from xenvol.sm.records import Volume, new_token, now, tombstone

SNAPSHOT = Volume(
    id="snapshot",
    backend_id=1,
    vdi_uuid="d1500000-0000-4000-8000-000000000001",
    token="token",
    state="available",
    name="",
    size=GIB,
    virtual_size=GIB,
    cost=GIB,
    source_id="volume",
    snapshot_of="volume",
    created_at=THEN,
    image=None,
)


class TestBackend:
    @pytest.mark.parametrize(
        ("sr_type", "features", "config_params", "is_thin"),
        [
            ("nfs", "VDI_CREATE THIN_PROVISIONING", "server=a", True),
            ("nfs", "", "server=a", False),
            ("vendors-own", "THIN_PROVISIONING", "", True),
            ("glusterfs", "VDI_CREATE", "server=a:/thick", True),
            ("CephFS", "", "", True),
            ("lvm", "VDI_CREATE", "device=/dev/sdb", False),
            ("lvm", "VDI_CREATE", "device=/dev/sdb allocation=thin", True),
            ("lvm", "VDI_CREATE", "device=/dev/sdb allocation=thick", False),
            ("lvm", "VDI_CREATE", "device=/dev/thin", False),
            ("lvm", "VDI_CREATE", "'name_label=allocation=thin' device=/dev/sdb", False),
        ],
    )
    def test_is_thin_where_its_driver_its_type_or_its_config_is(
        self, sr_type: str, features: str, config_params: str, is_thin: bool
    ) -> None:
        backend = a_backend(sr_type=sr_type, features=features, config_params=config_params)
        assert backend.is_thin is is_thin
        assert backend.as_dict()["thin"] is is_thin

    @pytest.mark.parametrize(
        ("sr_type", "config_params", "can"),
        [
            ("nfs", "server=a", set(FEATURES)),
            ("nfs", "server=a type=raw", set()),
            ("nfs", "server=raw", set(FEATURES)),
            ("lvmoiscsi", "type=raw", {"resize", "resize_online"}),
            ("lvhd", "type=raw", {"resize", "resize_online"}),
            ("lvm", "type=vhd", set(FEATURES)),
        ],
    )
    def test_has_what_its_driver_says_and_less_of_raw_disks(
        self, sr_type: str, config_params: str, can: set[str]
    ) -> None:
        """No raw disk has snapshots, and raw files cannot be resized (docs/background/recordings.md)."""
        backend = a_backend(sr_type=sr_type, config_params=config_params)
        assert {need for need, feature in FEATURES.items() if backend.has(feature)} == can
        assert not a_backend(features="VDI_CREATE").has("VDI_SNAPSHOT")
        assert not a_backend(features="VDI_RESIZE_ONLINE").has("VDI_RESIZE")

    def test_as_plain_values_is_json_and_shows_what_is_of_use(self) -> None:
        told = json.loads(json.dumps(a_backend(config_params="server=a 'name_label=a b'").as_dict()))
        assert told["config_params"] == {"server": "a", "name_label": "a b"}
        assert told["features"] == [*ALL_FEATURES.split(), "THIN_PROVISIONING"]
        assert told["created_at"] == "2026-01-01T00:00:00"
        assert not {"token", "placed_at"} & set(told)

    def test_has_the_type_that_an_old_name_stands_for(self) -> None:
        assert a_backend(sr_type="LVHDoISCSI").type.name == "lvmoiscsi"


class TestVolume:
    def test_is_a_snapshot_where_it_is_one_of_something(self) -> None:
        assert SNAPSHOT.is_snapshot
        assert not dataclasses.replace(SNAPSHOT, snapshot_of=None).is_snapshot

    def test_as_plain_values_is_json_and_shows_what_is_of_use(self) -> None:
        told = json.loads(json.dumps(SNAPSHOT.as_dict()))
        assert told["snapshot_of"] == told["source_id"] == "volume"
        assert not {"token", "cost"} & set(told)


class TestRow:
    @on_every_database
    def test_gives_back_what_was_written(self, manager: StorageManager) -> None:
        """On every database: sizes beyond 32 bits, fractions, microseconds."""
        written = manager.create_flavor(
            "silver", "ein Weg, mit Umlauten: äöü", over_subscription=1.25, reserved_percentage=7
        )
        assert manager.list_flavors("silver") == [written]
        assert written == a_flavor(
            id=written.id,
            label="silver",
            description="ein Weg, mit Umlauten: äöü",
            over_subscription=1.25,
            reserved_percentage=7,
        )
        backend = manager.add_backend("silver", "nfs", NFS, weight=2.5)
        assert manager.list_backends(backend.id) == [backend]
        assert backend.weight == 2.5
        assert backend.physical_size == 100 * GIB
        assert backend.placed_at == 0
        before = now()
        volume = manager.create_volume("volume", "silver", 50 * GIB)
        assert manager.get_volume("volume") == volume
        assert before <= volume.created_at <= now()
        (placed,) = manager.list_backends(backend.id)
        assert placed.placed_at > 1 << 60


def test_tokens_and_tombstones_are_unlike_any_other() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    first, second = tombstone(), tombstone()
    assert 0 < first <= second < 1 << 63


def test_now_is_utc_and_says_no_zone() -> None:
    """Databases store it so."""
    assert now().tzinfo is None
