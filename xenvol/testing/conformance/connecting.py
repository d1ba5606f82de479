"""The requirements on connect, disconnect, rollback and extend, if nothing fails."""

from __future__ import annotations

import pytest

from xenvol.testing.conformance.bench import Bench
from xenvol.testing.conformance.kit import Kit
from xenvol.testing.conformance.requirement import listed, must_pass, require

_DISCONNECT = (
    "disconnect_volume works from the data alone, in another process than the connect: find the SR by the data "
    "(storage.find_sr…), release it (storage.release_sr), and accept that it is gone already"
)

_CONNECT = "connect_volume gets the read-only connection_data, and `hosts` with the VM's host in it"


class Connecting(Kit):
    @pytest.mark.xapi(hosts=3)
    def test_connect_shows_the_volume_on_every_host(self, bench: Bench) -> None:
        bench.check_reachable(bench.connect(), bench.hosts)

    @pytest.mark.xapi(hosts=3)
    def test_connect_shows_the_volume_on_the_hosts_that_it_is_told(self, bench: Bench) -> None:
        """The hosts are added one by one, as VMs start there; the earlier hosts keep the volume."""
        for number, host in enumerate(bench.hosts, 1):
            bench.check_reachable(bench.connect(hosts=[host]), bench.hosts[:number])

    def test_connect_again_finds_what_is_connected(self, bench: Bench) -> None:
        first = bench.connect()
        bench.remember()
        remedy = "find the SR and its PBDs before making them: connect_volume is idempotent"
        with must_pass("connect_volume was called again, with the volume connected", remedy):
            second = bench.connect()
        require(
            second == first, f"a second connect_volume returned {second}, and the first {first}; {remedy}"
        )
        bench.check_nothing_left("after a second connect_volume", remedy)

    @pytest.mark.parametrize(
        "hosts",
        [
            pytest.param(1, marks=pytest.mark.xapi(hosts=1), id="one-host"),
            pytest.param(3, marks=pytest.mark.xapi(hosts=3), id="three-hosts"),
        ],
    )
    def test_disconnect_leaves_nothing(self, bench: Bench, hosts: int) -> None:
        bench.connect()
        bench.disconnect()
        bench.check_nothing_left("after connect_volume and disconnect_volume", _DISCONNECT)

    def test_disconnect_again_is_quiet(self, bench: Bench) -> None:
        bench.connect()
        bench.disconnect()
        with must_pass("disconnect_volume was called a second time", _DISCONNECT):
            bench.disconnect()
        bench.check_nothing_left("after a second disconnect_volume", _DISCONNECT)

    def test_disconnect_of_what_was_never_connected_is_quiet(self, bench: Bench) -> None:
        with must_pass("disconnect_volume was called without a connect", _DISCONNECT):
            bench.disconnect()
        bench.check_nothing_left("after a disconnect_volume without a connect", _DISCONNECT)

    @pytest.mark.xapi(hosts=2)
    def test_rollback_of_a_success_leaves_the_pool_as_it_was(self, bench: Bench) -> None:
        """The plug into the VM may fail after the connect; a second rollback does no harm."""
        driver = bench.driver()
        driver.connect_volume(bench.data)
        remedy = (
            "record each change on the line after it: self.undo.did(…); the inherited rollback unwinds them"
        )
        for when in ("a rollback", "a second rollback"):
            with must_pass(f"connect_volume had succeeded, and {when} was called", remedy):
                driver.rollback(bench.data)
            bench.check_nothing_left(f"after connect_volume and {when}", remedy)

    def test_rollback_takes_back_only_what_its_own_object_did(self, bench: Bench) -> None:
        """Two attaches of one volume run at once: the second fails, the first stays."""
        bench.connect()
        bench.remember()
        second = bench.driver()
        second.connect_volume(bench.data)
        second.rollback(bench.data)
        bench.check_nothing_left(
            "one object had connected the volume, a second one found it connected and was rolled back: after that",
            "rollback undoes what this object did, from its own record, and searches for nothing",
        )

    @pytest.mark.xapi(hosts=3)
    def test_a_vm_on_a_slave_gets_the_disk_and_gives_it_back(self, bench: Bench) -> None:
        """The facade attaches the volume to the VM, and detaches it again."""
        vm = bench.xapi.add_vm("a VM on a slave", resident_on=bench.hosts[-1])
        bench.remember()
        ops = bench.volume_ops()
        with must_pass("VolumeOps.attach_volume was called for a VM on a slave", _CONNECT):
            attachment = ops.attach_volume(bench.connection_info, vm)
        require(attachment.is_plugged, f"VolumeOps.attach_volume left the disk unplugged: {attachment}")
        with must_pass("VolumeOps.detach_volume was called", _DISCONNECT):
            ops.detach_volume(bench.connection_info, vm)
        bench.check_nothing_left("after attach_volume and detach_volume", _DISCONNECT)

    def test_a_volume_that_grew_is_seen(self, bench: Bench) -> None:
        if not hasattr(bench.driver_class, "extend_volume"):
            pytest.skip("the driver has no extend_volume")
        bench.connect()
        size = self.grow(bench.xapi)
        remedy = "make the storage driver read the size again (a scan, for example), and read the VDI's virtual_size"
        for when in ("extend_volume", "a second extend_volume"):
            seen = bench.extend()
            require(seen == size, f"the volume has {size} bytes, and {when} returned {seen!r}; {remedy}")
        bench.disconnect()
        left = [line for line in bench.changes() if not line.startswith(("storage.servers", "storage.luns"))]
        require(not left, f"extend_volume and disconnect_volume left:\n{listed(left)}")
