"""Arrays that make a LUN for every VDI: types ``netapp`` and ``equal``, for pools whose world file has them."""

from collections.abc import Iterator

import pytest
from lab import GIB, Lab, lab, refusal

MIB = 1 << 20
ARRAY = "10.0.1.1"
POOL_KEY = {"netapp": "aggregate", "equal": "storagepool"}


@pytest.fixture(params=["netapp", "equal"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def arrays(kind: str) -> Iterator[Lab]:
    with lab() as made:
        made.san.add_array(ARRAY, kind, "admin", "sekret", {"pool0": GIB})
        yield made


def config(kind: str, **changes: str | None) -> dict[str, str]:
    complete = {
        "target": ARRAY,
        "username": "admin",
        "password": "sekret",
        POOL_KEY[kind]: "pool0",
        **changes,
    }
    return {key: value for key, value in complete.items() if value is not None}


def create(arrays: Lab, kind: str, **changes: str | None) -> str:
    params = [arrays.host, config(kind, **changes), "0", "array", "", kind, "user", True, {}]
    return str(arrays.x.SR.create(*params))


def new_disk(arrays: Lab, sr: str, size: int) -> str:
    record = {
        "name_label": "disk",
        "SR": sr,
        "virtual_size": str(size),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
    }
    return str(arrays.x.VDI.create(record))


@pytest.mark.parametrize(
    ("changes", "netapp", "equal"),
    [
        ({"target": None}, 120, 160),
        ({"username": None}, 121, 161),
        ({"password": None}, 122, 162),
        ({"aggregate": None, "storagepool": None}, 123, 163),
        ({"aggregate": "nope", "storagepool": "nope"}, 123, 172),
        ({"target": "10.9.9.9"}, 124, 164),
        ({"password": "wrong"}, 125, 169),
    ],
)
def test_each_mistake_has_a_number_of_its_own(
    arrays: Lab, kind: str, changes: dict[str, str | None], netapp: int, equal: int
) -> None:
    other = "storagepool" if kind == "netapp" else "aggregate"
    mine = {key: value for key, value in changes.items() if key != other}
    number = {"netapp": netapp, "equal": equal}[kind]
    assert refusal(lambda: create(arrays, kind, **mine))[0] == f"SR_BACKEND_FAILURE_{number}"
    assert arrays.x.SR.get_all() == []


def test_the_password_becomes_a_secret(arrays: Lab, kind: str) -> None:
    (pbd,) = arrays.x.SR.get_PBDs(create(arrays, kind))
    assert "password" not in arrays.x.PBD.get_device_config(pbd)


def test_a_disk_is_a_lun_of_the_size_that_was_asked_for_in_whole_mib(arrays: Lab, kind: str) -> None:
    sr = create(arrays, kind)
    vdi = new_disk(arrays, sr, 10 * MIB + 1)
    assert arrays.x.VDI.get_virtual_size(vdi) == str(11 * MIB)
    assert sorted(arrays.x.VDI.get_sm_config(vdi)) == ["LUNid", "SCSIid"]
    assert arrays.x.SR.get_physical_size(sr) == str(GIB)
    assert arrays.x.SR.get_physical_utilisation(sr) == str(11 * MIB)


def test_a_full_pool_refuses(arrays: Lab, kind: str) -> None:
    sr = create(arrays, kind)
    new_disk(arrays, sr, GIB - MIB)
    no_space = ["SR_BACKEND_FAILURE_44", "", "There is insufficient space", ""]
    assert refusal(lambda: new_disk(arrays, sr, 2 * MIB)) == no_space


def test_disks_come_back_after_a_forget(arrays: Lab, kind: str) -> None:
    sr = create(arrays, kind)
    uuid, disk = arrays.x.SR.get_uuid(sr), arrays.x.VDI.get_uuid(new_disk(arrays, sr, MIB))
    (pbd,) = arrays.x.SR.get_PBDs(sr)
    arrays.x.PBD.unplug(pbd)
    arrays.x.SR.forget(sr)
    assert uuid in arrays.x.SR.probe(arrays.host, config(kind), kind, {})
    again, _ = arrays.plug(config(kind), type=kind, sr_uuid=uuid)
    assert [arrays.x.VDI.get_uuid(vdi) for vdi in arrays.x.SR.get_VDIs(again)] == [disk]


def test_disks_grow_and_never_shrink(arrays: Lab, kind: str) -> None:
    vdi = new_disk(arrays, create(arrays, kind), 2 * MIB)
    arrays.x.VDI.resize(vdi, str(5 * MIB))
    assert arrays.x.VDI.get_virtual_size(vdi) == str(5 * MIB)
    text = "VDI Invalid size [opterr=shrinking not allowed]"
    assert refusal(arrays.x.VDI.resize, vdi, str(MIB))[2] == text


def test_a_snapshot_is_read_only_and_a_clone_is_not(arrays: Lab, kind: str) -> None:
    vdi = new_disk(arrays, create(arrays, kind), MIB)
    snapshot = arrays.x.VDI.snapshot(vdi, {})
    assert arrays.x.VDI.get_read_only(snapshot) is True
    assert arrays.x.VDI.get_read_only(arrays.x.VDI.clone(vdi, {})) is False
    if kind == "equal":
        assert refusal(arrays.x.VDI.snapshot, snapshot, {})[0] == "SR_BACKEND_FAILURE_168"


def test_a_destroyed_disk_frees_its_space_and_an_empty_sr_can_go(arrays: Lab, kind: str) -> None:
    sr = create(arrays, kind)
    arrays.x.VDI.destroy(new_disk(arrays, sr, GIB))
    arrays.x.VDI.destroy(new_disk(arrays, sr, GIB))
    (pbd,) = arrays.x.SR.get_PBDs(sr)
    arrays.x.PBD.unplug(pbd)
    arrays.x.SR.destroy(sr)
    assert arrays.san.arrays[ARRAY].srs == {}


def test_an_array_that_is_away_fails_the_plug(arrays: Lab, kind: str) -> None:
    (pbd,) = arrays.x.SR.get_PBDs(create(arrays, kind))
    arrays.x.PBD.unplug(pbd)
    arrays.san.arrays[ARRAY].is_reachable = False
    number = {"netapp": 124, "equal": 164}[kind]
    assert refusal(arrays.x.PBD.plug, pbd)[0] == f"SR_BACKEND_FAILURE_{number}"
