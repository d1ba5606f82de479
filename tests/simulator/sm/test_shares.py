"""File servers and the hosts' own storage, read from plain values and written back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from xenvol.simulator.sm.volumegroup import VolumeGroup
from xenvol.simulator.sm.world import World
from xenvol.simulator.sm.worldfile import WorldError

GIB = 1 << 30
SR, DISK, CHILD = (f"11111111-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
FULL: dict[str, Any] = {
    "shares": {
        "nfs": [
            {
                "addresses": ["10.0.0.5", "nas"],
                "versions": ["4"],
                "rpcbind": False,
                "exports": {
                    "/export/a": {
                        "size": "100 GiB",
                        "used": 4096,
                        "block": 1024,
                        "access": ["10.0.0.0/8"],
                        "read_only": True,
                        "files": {
                            f"{SR}/{DISK}.vhd": {"virtual_size": "10 GiB", "hidden": True},
                            f"{SR}/{CHILD}.vhd": {"virtual_size": "10 GiB", "parent": DISK},
                            f"{SR}/{SR}.raw": {"size": 1000, "sparse": True},
                            "lost+found/": {},
                            "readme.txt": {"size": 12},
                        },
                    }
                },
            }
        ],
        "gluster": [{"volume": "gv0", "servers": ["gl1", "gl2"], "size": "1 TiB", "down": ["gl1"]}],
        "cephfs": [{"monitors": ["mon1"], "size": "1 TiB", "clients": ["admin"], "port": 3300}],
        "smb": [{"server": "files", "share": "disks", "size": "1 GiB", "credentials": ["user", "pw"]}],
    },
    "hosts": {
        "host1": {
            "directories": {"/srv/a": {"size": "10 GiB"}, "/srv/b": {"files": {"x.iso": {"size": 7}}}},
            "devices": {
                "/dev/sdb": {
                    "size": "20 GiB",
                    "serial": "s1",
                    "content": {"type": "lvm", "sr": SR, "disks": {DISK: {"size": "1 GiB"}}},
                },
                "/dev/sdc": {"size": "20 GiB", "content": {"type": "ext", "sr": SR, "files": {}}},
                "/dev/sdd": {"size": 1},
            },
            "addresses": ["10.0.0.1"],
            "lacks": ["mount.cifs"],
        }
    },
}


@pytest.fixture
def world() -> Iterator[World]:
    made = World.from_dict(FULL)
    yield made
    made.close()


def test_a_world_comes_back_from_what_it_says_of_itself(world: World) -> None:
    described = world.as_dict()
    again = World.from_dict(described)
    assert again.as_dict() == described
    again.close()


def test_an_export_is_as_it_was_described(world: World) -> None:
    (server,) = world.shares.nfs
    export = server.exports["/export/a"]
    assert (export.filesystem.size, export.filesystem.block) == (100 * GIB, 1024)
    assert (export.is_read_only, server.has_rpcbind, server.versions) == (True, False, ["4"])
    directory = export.filesystem.root.directory(SR)
    assert directory is not None
    child = directory.file(f"{CHILD}.vhd")
    assert child is not None
    assert child.vhd is not None
    assert (child.virtual_size, child.vhd.parent) == (10 * GIB, DISK)


def test_a_device_may_hold_an_sr(world: World) -> None:
    devices = world.host("host1").mounts.devices
    group = devices["/dev/sdb"].content
    assert isinstance(group, VolumeGroup)
    assert list(group.disks_in_use()) == [DISK]
    assert devices["/dev/sdd"].content is None


def test_a_client_finds_the_innermost_export_and_what_it_is_let_into(world: World) -> None:
    server = world.shares.nfs[0]
    inner = server.export("/export/a/b", size=GIB)
    inner.filesystem.root.make_directory("c")
    found = server.find("/export/a/b/c", ["10.0.0.1"])
    assert found is not None
    assert found[0] is inner
    assert server.find("/export/a", ["10.0.0.1"]) is not None
    assert server.find("/export/a", ["192.168.0.1", "host1"]) is None
    assert server.find("/export", ["10.0.0.1"]) is None
    server.unexport("/export/a")
    assert server.find("/export/a", ["10.0.0.1"]) is None


def test_a_name_resolves_when_a_server_or_the_network_has_it(world: World) -> None:
    world.san.names["alias"] = "10.0.0.5"
    assert all(
        world.resolves(name) for name in ("nas", "gl2", "mon1", "files", "alias", "1.2.3.4", "fd00::1")
    )
    assert not world.resolves("no.such.host.invalid")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("shares", "nfs", 0, "addreses"),
            [],
            "storage.shares.nfs[0].addreses: unknown key; known are addresses",
        ),
        (("shares", "nfs", 0, "addresses"), "x", "storage.shares.nfs[0].addresses: expected a list of texts"),
        (("shares", "nfs"), {}, "storage.shares.nfs: expected a list of maps"),
        (("shares", "nfs", 0, "rpcbind"), "no", "storage.shares.nfs[0].rpcbind: expected true or false"),
        (
            ("shares", "nfs", 0, "exports", "/export/a"),
            {},
            'storage.shares.nfs[0].exports./export/a.size: missing; write bytes, or "10 GiB"',
        ),
        (
            ("shares", "nfs", 0, "exports", "/export/a", "files", "x"),
            {"sise": 1},
            "storage.shares.nfs[0].exports./export/a.files.x.sise: unknown key",
        ),
        (
            ("shares", "nfs", 0, "exports", "/export/a", "files", "x"),
            {"size": "1 TiB"},
            "storage.shares.nfs[0].exports./export/a.files.x: No space left on device",
        ),
        (
            ("shares", "gluster", 0, "down"),
            ["gl9"],
            "storage.shares.gluster[0].down: gl9 is not one of the volume's",
        ),
        (("shares", "cephfs", 0, "port"), "x", "storage.shares.cephfs[0].port: 'x' is not a number"),
        (("shares", "smb", 0, "credentials"), ["u"], "storage.shares.smb[0].credentials: expected"),
        (("hosts", "host1", "device"), {}, "storage.hosts.host1.device: unknown key"),
        (("hosts", "host1", "devices", "/dev/sdd"), {}, "storage.hosts.host1.devices./dev/sdd.size: missing"),
        (
            ("hosts", "host1", "devices", "/dev/sdb", "content", "type"),
            "zfs",
            "storage.hosts.host1.devices./dev/sdb.content.type: 'zfs' is neither ext nor lvm",
        ),
        (
            ("hosts", "host1", "devices", "/dev/sdb", "content", "disks", DISK, "size"),
            "1 TiB",
            "storage.hosts.host1.devices./dev/sdb.content.disks: the disks need",
        ),
    ],
)
def test_a_mistake_in_a_world_file_is_named_by_its_key(
    path: tuple[Any, ...], value: Any, message: str
) -> None:
    with pytest.raises(WorldError, match=re.escape(message)):
        World.from_dict(_changed(FULL, path, value))


def _changed(values: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    head, *rest = path
    if isinstance(values, list):
        return [
            _changed(item, tuple(rest), value) if index == head else item for index, item in enumerate(values)
        ]
    return {**values, head: _changed(values.get(head, {}), tuple(rest), value)}
