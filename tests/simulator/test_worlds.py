"""A world file is built as it says, or refused with the wrong key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from xapi_client import PlainClient

from xenvol.simulator import Simulator, worlds, worldspec
from xenvol.simulator.sm.worldfile import WorldError

HOSTS = [{"name": "h1"}]


def names(xapi: Simulator, cls: str) -> set[str]:
    return {xapi.db.row(cls, ref)["name_label"] for ref in xapi.db.refs(cls)}


class TestShipped:
    @pytest.mark.parametrize("version", ["24.16.0", "25.33.1"])
    @pytest.mark.parametrize("name", worlds.NAMES)
    def test_every_shipped_world_starts(self, name: str, version: str) -> None:
        with Simulator(version, world=name) as xapi:
            assert PlainClient(xapi).call("pool.get_all")[0] == "result"

    def test_the_demo_has_a_running_vm_and_a_volume_of_each_kind(self) -> None:
        with Simulator(world="demo") as xapi:
            assert len(xapi.urls) == 3
            (vm,) = xapi.db.by_name("VM", "web")
            assert xapi.db.row("VM", vm)["resident_on"] == xapi.find_host("xen2")
            assert len(xapi.storage.san.volumes) == 2
            assert xapi.storage.shares.nfs_server("10.0.0.20") is not None
            assert xapi.storage.shares.gluster_volume("10.0.0.30", "volumes") is not None

    def test_the_example_is_built_as_it_says(self) -> None:
        with Simulator(world="example") as xapi:
            srs = {xapi.db.row("SR", sr)["name_label"]: sr for sr in xapi.db.refs("SR")}
            plugged = {
                name: [xapi.db.row("PBD", pbd)["currently_attached"] for pbd in xapi.db.children(sr, "PBDs")]
                for name, sr in srs.items()
            }
            assert plugged == {
                "NFS": [True, True],
                "ISO library": [True, True],
                "Archive, not plugged": [False, False],
                "Local disk of beta": [True],
            }
            assert xapi.db.row("pool", xapi.db.refs("pool")[0])["default_SR"] == srs["NFS"]
            assert {"debian-12.iso", "guest-tools.iso", "shared data"} <= names(xapi, "VDI")
            (stubborn,) = xapi.db.by_name("VM", "stubborn")
            assert xapi.guest(stubborn).refuses_unplug
            assert [order.kind for order in xapi.faults.orders] == ["refuse", "delay"]
            assert xapi.db.row("host", xapi.find_host("beta"))["multipathing"]

    def test_the_password_of_a_file_becomes_a_secret(self) -> None:
        with Simulator(world="example") as xapi:
            (sr,) = xapi.db.by_name("SR", "Archive, not plugged")
            for pbd in xapi.db.children(sr, "PBDs"):
                config = xapi.db.row("PBD", pbd)["device_config"]
                assert "smb-password" not in config.values()
                assert "password_secret" in config

    def test_faults_of_a_file_are_ordered_again_by_a_reset(self) -> None:
        with Simulator(world="example") as xapi:
            xapi.faults.clear()
            xapi.reset()
            assert len(xapi.faults.orders) == 2


class TestFiles:
    def test_a_world_can_be_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "world.json"
        path.write_text(json.dumps({"hosts": [{"name": "one"}, {"name": "two"}]}))
        with Simulator(world=path) as xapi:
            assert names(xapi, "host") == {"one", "two"}

    def test_a_file_that_is_not_there_is_an_error_that_lists_the_shipped_worlds(self) -> None:
        with pytest.raises(WorldError, match="neither one of recorded, example, demo nor a readable file"):
            worlds.load("nowhere.json")

    def test_a_file_that_is_no_json_is_an_error_with_the_place(self, tmp_path: Path) -> None:
        path = tmp_path / "world.json"
        path.write_text("{hosts: 1}")
        with pytest.raises(WorldError, match=r"world\.json: no JSON: .*line 1"):
            worlds.load(path)


class TestMistakes:
    @pytest.mark.parametrize(
        ("world", "text"),
        [
            ({}, "hosts: expected at least one"),
            ({"hosts": {}}, "hosts: expected a list"),
            ({"hosts": [{}]}, r"hosts\[0\].name: missing; expected a text"),
            ({"hosts": [{"name": 5}]}, r"hosts\[0\].name: expected a text"),
            ({"hosts": [{"name": "h", "adress": ""}]}, r"hosts\[0\].adress: unknown key; known are name, address"),
            ({"hosts": [{"name": "h", "enabled": "yes"}]}, r"hosts\[0\].enabled: expected true or false"),
            ({"hosts": HOSTS * 2}, "hosts: two are called 'h1'"),
            ({"hosts": HOSTS, "srs": [{"name": "s"}]}, r"srs\[0\].type: missing"),
            ({"hosts": HOSTS, "srs": [{"name": "s", "type": "nfs", "device_config": {"a": 1}}]},
             r"srs\[0\].device_config.a: expected a text, not 1"),
            ({"hosts": HOSTS, "srs": [{"name": "s", "type": "nfs", "hosts": ["h2"]}]},
             r"srs\[0\].hosts: no host 'h2'; there are h1"),
            ({"hosts": HOSTS, "srs": [{"name": "s", "type": "dummy", "vdis": [{"name": "v", "size": "big"}]}]},
             r"srs\[0\].vdis\[0\].size: 'big' is not a size"),
            ({"hosts": HOSTS, "vms": [{"name": "v", "kind": "xen"}]}, r"vms\[0\].kind: 'xen' is not one of pv, hvm"),
            ({"hosts": HOSTS, "vms": [{"name": "v", "power_state": "on"}]}, r"vms\[0\].power_state: 'on' is not one"),
            ({"hosts": HOSTS, "vms": [{"name": "v", "resident_on": "h2"}]}, r"vms\[0\].resident_on: no host 'h2'"),
            ({"hosts": HOSTS, "vms": [{"name": "v", "disks": ["d"]}]}, r"vms\[0\].disks: no VDI 'd' in srs"),
            ({"hosts": HOSTS, "pool": {"sm_types": ["floppy"]}}, r"pool.sm_types\[0\]: no driver 'floppy'"),
            ({"hosts": HOSTS, "pool": {"name": 7}}, "pool.name: expected a text"),
            ({"hosts": HOSTS, "storage": {"disks": {}}}, "storage.disks: unknown key"),
            ({"hosts": HOSTS, "storage": {"hosts": {"h9": {}}}}, "storage.hosts.h9: no such host; there are h1"),
            ({"hosts": HOSTS, "faults": [{"fault": "refuse", "method": "x"}]}, r"faults\[0\].error: missing"),
            ({"hosts": HOSTS, "faults": [{"fault": "die", "host": "h2"}]}, r"faults\[0\].no host 'h2'"),
            ({"hosts": [{"name": "h", "address": "10.0.0.1"}]}, r"hosts\[0\].address: '10.0.0.1' is not on the loop"),
        ],
    )  # fmt: skip  # one mistake per line reads as the table that it is
    def test_a_mistake_names_the_key_and_the_accepted_form(self, world: Any, text: str) -> None:
        with pytest.raises(WorldError, match=text):
            Simulator(world=world)

    def test_a_world_is_a_map(self) -> None:
        with pytest.raises(WorldError, match="world: expected a map"):
            worldspec.parse([])

    def test_an_sr_that_cannot_be_plugged_is_named_with_xapis_error(self) -> None:
        world = {
            "hosts": HOSTS,
            "srs": [
                {"name": "lost", "type": "nfs", "device_config": {"server": "10.9.9.9", "serverpath": "/x"}}
            ],
        }
        with pytest.raises(WorldError, match=r"srs\[0\] \(lost\): SR_BACKEND_FAILURE"):
            Simulator(world=world)
