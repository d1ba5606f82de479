"""A checkpoint contains the whole pool, and a simulator can be restored from it any number of times."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from xapi_client import PlainClient

from xenvol.simulator import Simulator

MIB = 1 << 20


@pytest.fixture
def furnished(xapi: Simulator) -> Simulator:
    """Add an SR, a disk that has bytes and is plugged into the control domain, and a running VM."""
    xapi.storage.shares.add_nfs("10.0.0.2").export("/vols", size=1 << 30)
    sr = xapi.add_sr(
        "nfs", type="nfs", device_config={"server": "10.0.0.2", "serverpath": "/vols"}, create=True
    )
    disk = xapi.add_vdi(sr, "disk", size=8 * MIB)
    xapi.add_vbd(xapi.db.get("host", xapi.db.refs("host")[0], "control_domain"), disk)
    xapi.add_vm("web")
    plugged(xapi).write_bytes(b"a" * MIB)
    return xapi


def plugged(xapi: Simulator) -> Path:
    """Return the block device of the disk in the control domain."""
    (link,) = [path for path in xapi.dev.rglob("*") if path.is_symlink()]
    return link


def test_what_was_done_since_is_undone_and_what_was_there_is_there(furnished: Simulator) -> None:
    client = PlainClient(furnished)
    before, refs, device = furnished.snapshot(), furnished.db.refs("VM"), plugged(furnished)
    kept = furnished.checkpoint()
    for _ in range(2):
        device.write_bytes(b"b" * 2 * MIB)
        furnished.storage.shares.nfs[0].is_listening = False
        furnished.add_vm("another")
        furnished.faults.refuse("*", "NO", every=True)
        client.call("session.logout")
        furnished.restore(kept)
        assert before.difference(furnished.snapshot(), ignore=["storage.*"]) == []
        assert furnished.db.refs("VM") == refs
        assert plugged(furnished) == device
        assert device.read_bytes() == b"a" * MIB
        assert furnished.storage.shares.nfs[0].is_listening
        assert (furnished.faults.orders, len(furnished.journal)) == ([], 0)
        assert client.call("VM.get_all")[0] == "result"


def test_a_pool_that_was_restored_works_on(furnished: Simulator) -> None:
    """Its relations, its events and its storage work as in a pool that was built."""
    furnished.restore(furnished.checkpoint())
    client = PlainClient(furnished)
    (vm,) = client.call("VM.get_by_name_label", "web")[1]
    kind, answer = client.call("event.from", ["VM"], "", 1.0)
    assert kind == "result"
    client.call("VM.set_name_label", vm, "renamed")
    kind, answer = client.call("event.from", [f"VM/{vm}"], answer["token"], 1.0)
    assert [event["snapshot"]["name_label"] for event in answer["events"]] == ["renamed"]
    (disk,) = client.call("VDI.get_by_name_label", "disk")[1]
    (vbd,) = client.call("VDI.get_VBDs", disk)[1]
    assert client.call("VBD.unplug", vbd)[0] == "result"
    assert [path for path in furnished.dev.rglob("*") if path.is_symlink()] == []
    assert client.call("VM.clean_shutdown", vm)[0] == "result"


def test_who_waits_in_a_pool_that_was_restored_is_woken(xapi: Simulator) -> None:
    vm = xapi.add_vm("web")
    waiting, client = PlainClient(xapi), PlainClient(xapi)
    token = waiting.call("event.from", ["VM"], "", 1.0)[1]["token"]
    xapi.restore(xapi.checkpoint())
    thread = threading.Thread(target=waiting.call, args=("event.from", ["VM"], token, 600.0), daemon=True)
    thread.start()
    while not xapi.xapi.bell.waiters:
        threading.Event().wait(0.002)
    client.call("VM.set_name_label", vm, "renamed")
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.xapi(hosts=3)
def test_hosts_that_joined_leave_and_dead_ones_are_dead_again(xapi: Simulator) -> None:
    second = xapi.db.refs("host")[1]
    xapi.die(second)
    kept, urls = xapi.checkpoint(), xapi.urls
    xapi.add_host("late")
    xapi.come_back(second)
    xapi.restore(kept)
    assert xapi.urls == urls
    assert [server.is_up for server in xapi._servers] == [True, False, True]
    xapi.come_back(second)
    assert PlainClient(xapi).call("host.get_all")[0] == "result"


def test_a_host_that_had_joined_comes_back(xapi: Simulator) -> None:
    xapi.add_host("late")
    kept, urls = xapi.checkpoint(), xapi.urls
    xapi.reset()
    assert len(xapi.urls) == 1
    xapi.restore(kept)
    assert xapi.urls == urls


@pytest.fixture
def hanging(xapi: Simulator) -> Iterator[str]:
    """A VM whose migration does not end."""
    host = xapi.db.refs("host")
    vm = xapi.add_vm("web", resident_on=host[0])
    xapi.guest(vm).stays_in_flight = True
    client = PlainClient(xapi)
    thread = threading.Thread(target=client.call, args=("VM.pool_migrate", vm, host[1], {}))
    thread.start()
    while not xapi.db.row("VM", vm)["current_operations"]:
        threading.Event().wait(0.002)
    yield vm
    with xapi.xapi.lock:
        xapi.guest(vm).stays_in_flight = False
        xapi.xapi.lock.notify_all()
    thread.join(60)


@pytest.mark.xapi(hosts=2)
def test_none_is_made_while_a_call_is_under_way(xapi: Simulator, hanging: str) -> None:
    """The operation's thread cannot be saved."""
    with pytest.raises(RuntimeError, match=r"VM .* has .*pool_migrate: a checkpoint needs a pool"):
        xapi.checkpoint()


def test_the_files_of_a_pool_that_was_restored_go_with_the_simulator() -> None:
    with Simulator() as xapi:
        xapi.restore(xapi.checkpoint())
        directory = xapi.storage.directory
        assert directory.exists()
    assert not directory.exists()


class TestSimulatorsThatStartAlike:
    def test_are_different_pools(self) -> None:
        """Two pools of a test share nothing, although both are made from one template."""
        with Simulator(hosts=2) as one, Simulator(hosts=2) as other:
            names = [
                {value for ref in xapi.db.refs(cls) for value in (ref, xapi.db.get(cls, ref, "uuid"))}
                for xapi in (one, other)
                for cls in ("pool", "host", "VM", "SM", "network", "secret")
            ]
        assert set.union(*names[:6]) & set.union(*names[6:]) == set()

    def test_have_what_their_world_says_under_the_uuids_that_it_says(self) -> None:
        with Simulator(world="demo") as one, Simulator(world="demo") as other:
            uuids = [{xapi.db.get("SR", ref, "uuid") for ref in xapi.db.refs("SR")} for xapi in (one, other)]
            fixed = {sr.uuid for sr in one._spec.srs if sr.uuid}
            assert uuids[0] & uuids[1] == fixed
            servers = [xapi.snapshot().storage["luns"] for xapi in (one, other)]
            assert servers[0] == servers[1]

    def test_are_of_their_own_release(self) -> None:
        with Simulator("24.16.0") as old, Simulator("25.33.1") as new:
            assert "ssh_enabled" not in old.db.record("host", old.db.refs("host")[0])
            assert "ssh_enabled" in new.db.record("host", new.db.refs("host")[0])

    def test_read_a_world_file_anew(self, tmp_path: Path) -> None:
        """Only the worlds that ship with the package cannot change."""
        path = tmp_path / "world.json"
        for name in ("one", "other"):
            path.write_text(f'{{"hosts": [{{"name": "{name}"}}]}}')
            with Simulator(world=path) as xapi:
                assert len(xapi.db.by_name("host", name)) == 1
