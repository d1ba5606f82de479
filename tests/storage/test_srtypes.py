"""The table of SR types: sizes, and which configs mean the same storage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xenvol.simulator.sm.registry import sm_record
from xenvol.storage import srtypes
from xenvol.storage.srtypes import GIB, MIB, sr_type_of

DRIVERS = Path(__file__).parents[2] / "xenvol" / "simulator" / "data" / "sm-drivers.json"
UUID = "0badcafe-0000-4000-8000-000000000001"


class TestSizes:
    @pytest.mark.parametrize(
        ("asked", "made"),
        [
            (1, 2 * MIB),
            (2 * MIB, 2 * MIB),
            (2 * MIB + 1, 4 * MIB),
            (3_000_001, 4 * MIB),
            (GIB, GIB),
            (2040 * GIB, 2040 * GIB),
        ],
    )
    def test_a_vhd_has_whole_blocks_of_2_mib(self, asked: int, made: int) -> None:
        """The sizes are those of trace sm/21#17-26."""
        assert sr_type_of("nfs").rounded(asked) == made

    @pytest.mark.parametrize(
        ("asked", "taken"),
        [(1, 8 * MIB), (3_000_001, 12 * MIB), (100 * MIB, 108 * MIB), (500 * MIB, 508 * MIB)],
    )
    def test_a_thick_vhd_takes_its_tables_too(self, asked: int, taken: int) -> None:
        """The sizes are those of the logical volumes in trace sm/24."""
        for sr_type in ("lvm", "lvmoiscsi", "lvmohba", "lvmofcoe"):
            assert sr_type_of(sr_type).taken(asked) == taken

    @pytest.mark.parametrize("sr_type", ["netapp", "equal"])
    def test_an_array_makes_luns_of_whole_mib(self, sr_type: str) -> None:
        assert [sr_type_of(sr_type).rounded(size) for size in (1, MIB, MIB + 1)] == [MIB, MIB, 2 * MIB]

    def test_a_vhd_ends_at_2040_gib_and_a_lun_nowhere(self) -> None:
        limits = {name: sr_type_of(name).max_size for name in srtypes.known_types()}
        unlimited = {name for name, limit in limits.items() if limit is None}
        luns = {"iscsi", "rawiscsi", "hba", "rawhba"}
        assert unlimited == {"linstor", *luns, "netapp", "equal", "cslg", "dummy"}
        assert {limit for name, limit in limits.items() if name not in unlimited} == {2040 * GIB}


class TestNames:
    def test_a_type_has_no_case(self) -> None:
        assert sr_type_of("NFS") is sr_type_of("nfs")

    @pytest.mark.parametrize(("old", "new"), [("lvhd", "lvm"), ("lvhdoiscsi", "lvmoiscsi")])
    def test_an_old_name_is_the_type_that_it_stands_for(self, old: str, new: str) -> None:
        assert sr_type_of(old) is sr_type_of(new)

    def test_an_unknown_type_is_a_vendors_and_has_no_limits(self) -> None:
        vendors = sr_type_of("Acme")
        assert (vendors.name, vendors.is_shared, vendors.formats, vendors.max_size) == (
            "acme",
            True,
            None,
            None,
        )
        assert vendors.rounded(17) == vendors.taken(17) == 17

    def test_every_driver_that_holds_disks_is_known(self) -> None:
        """This covers the drivers whose source was read; `flaky` belongs to the recorded server."""
        read = set(json.loads(DRIVERS.read_text())["types"]) - {"flaky"}
        assert {name for name in read if sr_type_of(name).not_for_volumes} == read - set(
            srtypes.known_types()
        )
        assert {name for name in read if sr_type_of(name).not_for_volumes} == {"iso", "udev", "shm"}


class TestWhatIsErased:
    def test_making_an_sr_erases_a_device_or_a_lun_or_nothing(self) -> None:
        erasing = {name: sr_type_of(name).formats for name in srtypes.known_types()}
        by_device = {"ext", "xfs", "largeblock", "lvm"}
        by_lun = {"lvmoiscsi", "lvmohba", "lvmofcoe"}
        assert {name for name, key in erasing.items() if key == "device"} == by_device
        assert {name for name, key in erasing.items() if key == "SCSIid"} == by_lun
        assert {key for name, key in erasing.items() if name not in by_device | by_lun} == {None}

    def test_the_device_is_a_key_that_must_be_given(self) -> None:
        for name in srtypes.known_types():
            kind = sr_type_of(name)
            assert kind.formats is None or kind.formats in kind.required

    def test_what_the_storage_can_list_is_required(self) -> None:
        for name in srtypes.known_types():
            assert set(sr_type_of(name).listed) <= set(sr_type_of(name).required)


SAME: list[tuple[str, dict[str, str], str, dict[str, str]]] = [
    (
        "nfs",
        {"server": "filer.example.org", "serverpath": "/vols"},
        "nfs",
        {"serverpath": "/vols//", "server": "Filer.Example.org.", "nfsversion": "4", "options": "soft"},
    ),
    (
        "nfs",
        {"server": "fd00::1", "serverpath": "/a/b"},
        "nfs",
        {"server": "[fd00::1]", "serverpath": "//a/./b/"},
    ),
    ("smb", {"server": r"\\Filer\Vols"}, "smb", {"server": "//filer/vols/", "username": "other"}),
    ("smb", {"server": "//filer/vols"}, "smb", {"server": "//filer/vols/directory"}),
    (
        "cephfs",
        {"server": "mon1,mon2", "serverpath": "/"},
        "cephfs",
        {"server": "mon3, mon2", "serverpath": "", "serverport": "6789", "options": "name=other"},
    ),
    ("glusterfs", {"server": "one:/vols"}, "glusterfs", {"server": "One:vols/"}),
    (
        "glusterfs",
        {"server": "one:/vols"},
        "glusterfs",
        {"server": "two:/vols", "backupservers": "three:one"},
    ),
    (
        "moosefs",
        {"masterhost": "mfs", "rootpath": "/x"},
        "moosefs",
        {"masterhost": "MFS", "rootpath": "/x/", "masterport": "9421"},
    ),
    ("file", {"location": "/srv/vols"}, "file", {"location": "/srv/../srv/vols/"}),
    ("ext", {"device": "/dev/sdb"}, "lvm", {"device": "/dev//sdb"}),
    ("lvm", {"device": "/dev/sdb,/dev/sdc"}, "lvm", {"device": "/dev/sdc, /dev/sdb"}),
    ("lvm", {"device": "/dev/sdb,/dev/sdc"}, "ext", {"device": "/dev/sdc"}),
    (
        "lvmoiscsi",
        {"target": "10.0.0.1", "targetIQN": "iqn.x:a", "SCSIid": "3600A"},
        "lvmoiscsi",
        {"SCSIid": "3600a", "target": "10.0.0.9", "port": "3261", "targetIQN": "*", "chapuser": "u"},
    ),
    (
        "lvmoiscsi",
        {"target": "10.0.0.1", "targetIQN": "iqn.x:a", "SCSIid": "3600a"},
        "lvmohba",
        {"SCSIid": "3600a"},
    ),
    (
        "iscsi",
        {"target": "10.0.0.1", "targetIQN": "iqn.x:A"},
        "iscsi",
        {"target": "10.0.0.2", "port": "3261", "targetIQN": "iqn.x:a"},
    ),
    ("hba", {}, "hba", {"type": "any"}),
    ("hba", {"type": "FC"}, "hba", {"type": "fc"}),
    (
        "netapp",
        {"target": "Filer", "username": "a", "aggregate": "aggr0"},
        "netapp",
        {"target": "filer", "username": "b", "aggregate": "aggr0", "FlexVols": "8"},
    ),
    ("acme", {"host": "a", "pool": "b"}, "acme", {"pool": "b", "host": "a"}),
]

OTHER: list[tuple[str, dict[str, str], str, dict[str, str]]] = [
    (
        "nfs",
        {"server": "10.0.0.2", "serverpath": "/vols"},
        "nfs",
        {"server": "10.0.0.2", "serverpath": "/vols2"},
    ),
    (
        "nfs",
        {"server": "10.0.0.2", "serverpath": "/vols"},
        "nfs",
        {"server": "10.0.0.2", "serverpath": "/Vols"},
    ),
    (
        "nfs",
        {"server": "10.0.0.2", "serverpath": "/vols"},
        "nfs",
        {"server": "10.0.0.3", "serverpath": "/vols"},
    ),
    ("smb", {"server": "//filer/vols"}, "smb", {"server": "//filer/vols2"}),
    ("cephfs", {"server": "mon1", "serverpath": "/"}, "cephfs", {"server": "mon1", "serverpath": "/sub"}),
    (
        "cephfs",
        {"server": "mon1", "serverpath": "/"},
        "cephfs",
        {"server": "mon1", "serverpath": "/", "serverport": "6790"},
    ),
    ("glusterfs", {"server": "one:/vols"}, "glusterfs", {"server": "one:/other"}),
    ("ext", {"device": "/dev/sdb"}, "ext", {"device": "/dev/sdb1"}),
    ("lvmohba", {"SCSIid": "3600a"}, "lvmohba", {"SCSIid": "3600b"}),
    ("iscsi", {"target": "t", "targetIQN": "iqn.x:a"}, "iscsi", {"target": "t", "targetIQN": "iqn.x:b"}),
    ("hba", {"type": "FC"}, "hba", {"type": "SAS"}),
    ("netapp", {"target": "f", "aggregate": "a"}, "netapp", {"target": "f", "aggregate": "b"}),
    ("acme", {"host": "a"}, "acme", {"host": "b"}),
]


class TestTheSameStorage:
    @pytest.mark.parametrize(("sr_type", "config", "other_type", "other"), SAME)
    def test_is_known_however_its_config_is_spelled(
        self, sr_type: str, config: dict[str, str], other_type: str, other: dict[str, str]
    ) -> None:
        assert sr_type_of(sr_type).locations(config) & sr_type_of(other_type).locations(other)

    @pytest.mark.parametrize(("sr_type", "config", "other_type", "other"), OTHER)
    def test_is_not_seen_where_there_are_two(
        self, sr_type: str, config: dict[str, str], other_type: str, other: dict[str, str]
    ) -> None:
        assert not sr_type_of(sr_type).locations(config) & sr_type_of(other_type).locations(other)


@pytest.mark.parametrize(
    "name", [name for name in srtypes.known_types() if srtypes.sr_type_of(name).optional]
)
def test_a_type_knows_every_key_that_its_driver_names_itself(name: str) -> None:
    """A driver reads further keys, and names only some."""
    kind = srtypes.sr_type_of(name)
    try:
        named = sm_record(name)["configuration"]
    except KeyError:
        assert name in ("rawiscsi", "rawhba")  # the names in sm's own tree, for which no pool has a driver
        return
    assert set(named) <= {*kind.required, *(kind.optional or ())}
    assert named
