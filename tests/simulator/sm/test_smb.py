"""Linked shares with SMB as the example, without a wire."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memory_port import SR_UUID, Bench, fault

from xenvol.simulator.sm.base import VDISpec
from xenvol.simulator.sm.smb import SMBSR
from xenvol.simulator.sm.smbclient import split_location
from xenvol.simulator.sm.world import World

GIB, MIB = 1 << 30, 1 << 20
POINT = f"/run/sr-mount/SMB/files/disks/{SR_UUID}"


@pytest.fixture
def bench() -> Iterator[Bench]:
    world = World()
    made = Bench(world, SMBSR, {"server": r"\\files\disks", "username": "user", "password_secret": "s"})
    world.shares.add_smb("files", "disks", size=GIB, credentials=("user", "pw"))
    made.port.secrets["s"] = "pw"
    yield made
    world.close()


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (r"\\files\disks", ("files", "disks")),
        ("//files/disks/below", ("files", "disks")),
        ("//files", ("files", "")),
        ("", ("", "")),
    ],
)
def test_a_location_is_a_server_and_a_share(location: str, expected: tuple[str, str]) -> None:
    assert split_location(location) == expected


def test_the_share_is_mounted_aside_and_its_directory_linked(bench: Bench) -> None:
    bench.create()
    assert bench.mounts.is_mounted(POINT)
    assert list(bench.mounts.directory(f"/run/sr-mount/{SR_UUID}")) == ["sm-hardlink.conf"]
    bench.driver().detach()
    assert bench.mounts.find(f"/run/sr-mount/{SR_UUID}") is None
    assert list(bench.world.shares.smb[0].filesystem.root) == [SR_UUID]


def test_a_plug_and_an_unplug_may_be_repeated(bench: Bench) -> None:
    """Passes if nothing is raised."""
    bench.create()
    bench.driver().attach()
    bench.driver().detach()
    bench.driver().detach()


def test_after_a_lost_mount_nothing_works_until_it_is_replugged(bench: Bench) -> None:
    """Unlike with nfs there is no bare directory to write into: the link dangles."""
    bench.create()
    bench.mounts.lose_mount(SR_UUID)
    assert fault(bench.driver().scan) == 47
    assert fault(bench.driver().vdi_create, VDISpec(MIB)) == 47
    bench.driver().detach()
    bench.driver().attach()
    bench.driver().vdi_create(VDISpec(MIB))


def test_a_share_for_guests_needs_no_credentials_and_takes_any(bench: Bench) -> None:
    bench.world.shares.smb[0].credentials = None
    for keys in ((), ("username",), ("username", "password_secret")):
        config = {key: value for key, value in bench.config.items() if key in ("server", *keys)}
        assert "<SRlist/>" in Bench(bench.world, SMBSR, config).driver().probe()


def test_a_user_without_a_password_is_a_guest(bench: Bench) -> None:
    del bench.config["password_secret"]
    assert fault(bench.driver().probe) == 111


def test_a_server_that_is_down_is_a_mount_that_fails(bench: Bench) -> None:
    bench.world.shares.smb[0].is_down = True
    assert fault(bench.driver().create, 0) == 111


def test_a_share_without_write_access_is_461(bench: Bench) -> None:
    bench.world.shares.smb[0].filesystem.is_read_only = True
    assert fault(bench.driver().create, 0) == 461


def test_an_sr_is_not_made_while_it_is_plugged_nor_over_files(bench: Bench) -> None:
    bench.create()
    assert fault(bench.driver().create, 0) == 113
    bench.driver().detach()
    assert fault(bench.driver().create, 0) == 42


def test_an_sr_takes_its_directory_along_unless_another_client_has_put_something_there(bench: Bench) -> None:
    bench.create()
    root = bench.world.shares.smb[0].filesystem.root
    root.make_directory(f"{SR_UUID}/stranger")
    assert fault(bench.driver().delete) == 114
    root.make_directory(SR_UUID).remove("stranger")
    bench.driver().delete()
    assert list(root) == []


def test_an_unplug_fails_when_the_bare_mount_point_holds_something(bench: Bench) -> None:
    bench.create()
    bench.mounts.local.root.make_directory(f"{POINT}/lost")
    assert fault(bench.driver().detach) == 112
