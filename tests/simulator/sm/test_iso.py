"""A library of CD images, without a wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memory_port import Bench, fault

from xenvol.simulator.sm.base import VDISpec
from xenvol.simulator.sm.filesystem import Directory
from xenvol.simulator.sm.iso import ISOSR
from xenvol.simulator.sm.world import World

GIB = 1 << 30


@pytest.fixture
def bench() -> Iterator[Bench]:
    world = World()
    made = Bench(world, ISOSR, {"location": "/srv/isos", "legacy_mode": "true"})
    made.mounts.make_directory("/srv/isos", size=GIB).add_file("a.iso", 700)
    world.shares.add_nfs("10.0.0.5", "fd00::5").export("/isos", size=GIB)
    world.shares.add_smb("files", "isos", size=GIB, credentials=("user", "pw"))
    yield made
    world.close()


def directory(bench: Bench) -> Directory:
    found: Directory = bench.mounts.directory("/srv/isos")
    return found


def test_an_image_keeps_its_row_from_scan_to_scan_and_goes_with_its_file(bench: Bench) -> None:
    bench.create()
    (first,) = bench.driver().scan()
    bench.port.rows[first.uuid]["name_label"] = "renamed"
    (second,) = bench.driver().scan()
    assert second.uuid == first.uuid
    assert bench.port.rows[first.uuid]["name_label"] == "renamed"
    directory(bench).remove("a.iso")
    assert bench.driver().scan() == []
    assert bench.port.rows == {}


def test_an_image_has_the_bytes_of_its_file_and_is_missed_without_it(bench: Bench) -> None:
    bench.create()
    (image,) = bench.driver().scan()
    assert bench.driver().vdi_file(image.uuid).stat().st_size == 700
    directory(bench).remove("a.iso")
    assert fault(bench.driver().vdi_attach, image.uuid, False) == 144


def test_a_disk_made_in_a_library_is_a_writable_image_and_stays_one(bench: Bench) -> None:
    bench.create()
    made = bench.driver().vdi_create(VDISpec(4096, name_label="mine", sm_config={"path": "mine.iso"}))
    assert made.location == "mine.iso"
    bench.driver().scan()
    row = bench.port.rows[made.uuid]
    assert (row["read_only"], row["virtual_size"], "created" in row["sm_config"]) == (False, 4096, True)
    assert fault(bench.driver().vdi_create, VDISpec(1, sm_config={"path": "mine.iso"})) == 43
    assert fault(bench.driver().vdi_create, VDISpec(1, sm_config={"path": "../x"})) == 78
    bench.driver().vdi_delete(made.uuid)
    assert "mine.iso" not in directory(bench)


def test_a_disk_without_a_path_is_named_by_its_uuid(bench: Bench) -> None:
    bench.create()
    made = bench.driver().vdi_create(VDISpec(4096))
    assert made.location == f"{made.uuid}.img"


def test_the_directory_may_lie_below_the_location(bench: Bench) -> None:
    directory(bench).make_directory("deep").add_file("b.iso", 1)
    bench.config["iso_path"] = "/deep"
    bench.create()
    assert [image.location for image in bench.driver().scan()] == ["b.iso"]
    bench.config["iso_path"] = "/nothing"
    assert fault(bench.driver().scan) == 47


def test_the_type_of_the_library_is_written_into_the_sr(bench: Bench) -> None:
    bench.config = {"location": "10.0.0.5:/isos", "type": "nfs_iso"}
    bench.create()
    assert bench.port.sr["sm_config"] == {"iso_type": "nfs_iso"}


def test_a_library_that_was_unmounted_cannot_be_scanned(bench: Bench) -> None:
    bench.config = {"location": "10.0.0.5:/isos"}
    bench.create()
    bench.mounts.lose_mount(bench.driver().sr.uuid)
    assert fault(bench.driver().scan) == 47
    bench.driver().detach()


@pytest.mark.parametrize("location", ["[fd00::5]:/isos", "10.0.0.5:/isos"])
def test_a_location_with_a_path_behind_a_colon_is_nfs(bench: Bench, location: str) -> None:
    bench.config = {"location": location}
    bench.create()
    assert bench.driver().scan() == []


@pytest.mark.parametrize(
    ("config", "number"),
    [
        ({"location": "10.0.0.9:/isos"}, 108),
        ({"location": "10.0.0.5:/isos", "nfsversion": "9"}, 1200),
        ({"location": "//files/isos", "type": "cifs", "username": "user", "cifspassword": "no"}, 222),
        ({"location": "//files/isos", "type": "cifs", "vers": "2.0"}, 227),
        ({"location": "files", "type": "cifs"}, 225),
        ({"location": "//files/isos"}, 228),
    ],
)
def test_a_library_that_cannot_be_mounted_says_why(bench: Bench, config: dict[str, str], number: int) -> None:
    bench.config = config
    assert fault(lambda: bench.driver().create(0)) == number


def test_a_version_of_nfs_that_the_server_has_not_is_72(bench: Bench) -> None:
    bench.world.shares.nfs[0].versions = ["3"]
    bench.config = {"location": "10.0.0.5:/isos", "nfsversion": "4"}
    assert fault(bench.driver().attach) == 72
    bench.world.shares.nfs[0].has_rpcbind = False
    assert fault(bench.driver().attach) == 108


def test_an_smb_library_writes_the_version_that_worked_into_its_pbd(bench: Bench) -> None:
    bench.config = {
        "location": r"\\files\isos",
        "type": "cifs",
        "username": "user",
        "cifspassword_secret": "s",
    }
    bench.port.secrets["s"] = "pw"
    bench.create()
    assert bench.port.device_config == {"vers": "3.0"}
    assert bench.driver().scan() == []
